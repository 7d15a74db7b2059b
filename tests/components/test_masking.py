import hashlib
import re
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label
from torch import Tensor

from riad_anomalib.components.masking import (
    BLOBS_SHARE,
    MOST_STROKES,
    STROKES_SHARE,
    blobs,
    brush_strokes,
    check_regions,
    checkerboards,
    fixed_partition,
    mask_out,
    paste,
    random_partition,
    reassemble,
    removed_regions,
)


@settings(deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), region_size=st.integers(1, 9), data=st.data())
def test_a_partition_deals_whole_regions_to_sets_of_equal_size(
    rows: int,
    columns: int,
    region_size: int,
    data: st.DataObject,
) -> None:
    num_sets = data.draw(st.integers(1, rows * columns))
    height, width = rows * region_size, columns * region_size
    drawn = random_partition(height, width, region_size, num_sets, batch_size=2)
    for partition in (*drawn, fixed_partition(height, width, region_size, num_sets, seed=3)):
        regions = partition.unfold(0, region_size, region_size).unfold(1, region_size, region_size).flatten(2)
        assert (regions == regions[..., :1]).all()
        counts = torch.bincount(regions[..., 0].flatten(), minlength=num_sets)
        assert len(counts) == num_sets
        assert counts.max() - counts.min() <= 1
        removed = removed_regions(partition, num_sets)
        assert removed.shape == (num_sets, 1, height, width)
        assert (removed.sum(dim=0) == 1).all()


def test_images_of_a_batch_get_partitions_of_their_own() -> None:
    torch.manual_seed(0)
    drawn = random_partition(64, 64, 8, 3, batch_size=4)
    assert len({partition.numpy().tobytes() for partition in drawn}) == 4
    assert not torch.equal(drawn, random_partition(64, 64, 8, 3, batch_size=4))
    torch.manual_seed(0)
    assert torch.equal(drawn, random_partition(64, 64, 8, 3, batch_size=4))


def test_every_region_is_dealt_to_every_set_equally_often() -> None:
    torch.manual_seed(0)
    removed = removed_regions(random_partition(8, 8, 2, 4, batch_size=4000), 4)
    # 4000 draws of probability 1/4: a standard deviation of 0.007
    assert (removed.float().mean(dim=0) - 0.25).abs().max() < 0.03


def test_the_fixed_partition_never_changes() -> None:
    assert fixed_partition(8, 8, 2, 3, seed=0)[::2, ::2].tolist() == [
        [1, 0, 2, 0],
        [1, 1, 2, 2],
        [1, 1, 0, 2],
        [0, 0, 2, 0],
    ]
    digest = hashlib.sha256(fixed_partition(256, 256, 2, 3, seed=0).numpy().astype(np.uint8).tobytes()).hexdigest()
    assert digest[:16] == "865af4360ff4ea2c"


def test_the_seed_and_the_sizes_decide_the_fixed_partition() -> None:
    base = fixed_partition(32, 64, 4, 3, seed=0)
    assert torch.equal(base, fixed_partition(32, 64, 4, 3, seed=0))
    assert not torch.equal(base, fixed_partition(32, 64, 4, 3, seed=1))
    assert not torch.equal(base, fixed_partition(32, 64, 4, 4, seed=0))


def test_the_fixed_partition_leaves_the_global_generators_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002
    fixed_partition(32, 32, 4, 3, seed=0)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002


def test_masked_copies_and_reassembly_agree_with_the_slow_loops() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 12, 16, dtype=torch.float64)
    partition = random_partition(12, 16, 4, 3, batch_size=2)
    removed = removed_regions(partition, 3)
    masked = mask_out(image, removed)
    painted = torch.rand_like(masked)
    whole = reassemble(painted, removed)
    for i in range(2):
        copies = reference.masked_copies(image[i, 0].numpy(), partition[i].numpy(), 3)
        np.testing.assert_array_equal(masked[3 * i : 3 * i + 3, 0].numpy(), copies)
        partial = list(painted[3 * i : 3 * i + 3, 0].numpy())
        np.testing.assert_array_equal(whole[i, 0].numpy(), reference.reassemble(partial, partition[i].numpy()))


def test_masked_copies_by_hand() -> None:
    image = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    removed = removed_regions(torch.tensor([[0, 1], [1, 0]]), 2)
    masked = mask_out(image, removed)
    assert masked.tolist() == [[[[0, 2], [3, 0]]], [[[1, 0], [0, 4]]]]
    assert reassemble(10 * image.repeat(2, 1, 1, 1) * (masked == 0), removed).tolist() == [[[[10, 20], [30, 40]]]]


def test_what_is_removed_does_not_reach_the_network() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16)
    removed = removed_regions(fixed_partition(16, 16, 4, 3, seed=0), 3)
    for index in range(3):
        other = torch.where(removed[index], torch.rand_like(image), image)
        assert not torch.equal(other, image)
        assert torch.equal(mask_out(other, removed)[index], mask_out(image, removed)[index])


def test_a_broken_pixel_that_is_not_taken_does_no_harm() -> None:
    removed = removed_regions(torch.tensor([[0, 1]]), 2)
    painted = torch.tensor([[[[0.5, float("nan")]]], [[[float("inf"), 0.25]]]])
    assert reassemble(painted, removed).tolist() == [[[[0.5, 0.25]]]]


@pytest.mark.parametrize(
    ("image_size", "region_sizes", "num_sets", "message"),
    [
        ((0, 16), [2], 2, "image size 0x16 is not positive"),
        ((16, 16), [], 2, "region_sizes is empty"),
        ((16, 16), [2, 0], 2, "must all be positive"),
        ((16, 16), [-2], 2, "must all be positive"),
        ((16, 16), [2, 4, 2], 2, "names a size twice"),
        ((16, 32), [2, 32], 2, "region size 32 is larger than the image (16x32)"),
        ((250, 256), [2, 16], 2, "not a multiple of region size 16 and of 16, .*set image_size to 240x256 or 256x256"),
        ((256, 256), [2, 3], 2, "not a multiple of region size 3: set image_size to 240x240 or 288x288"),
        ((24, 24), [2], 2, "not a multiple of 16, the number of pixels"),
        ((16, 16), [2], 1, "num_disjoint_sets is 1: it must be at least 2"),
        ((16, 16), [2, 8], 5, "at most 4, the number of 8x8 regions"),
    ],
)
def test_what_does_not_fit_is_refused(
    image_size: tuple[int, int],
    region_sizes: list[int],
    num_sets: int,
    message: str,
) -> None:
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match=pattern):
        check_regions(image_size, region_sizes, num_sets, stride=16)


def test_the_sizes_that_the_error_names_do_fit() -> None:
    for size in ((240, 240), (288, 288)):
        check_regions(size, [2, 3], 2, stride=16)


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), patch_size=st.integers(1, 12))
def test_four_checkerboards_remove_every_pixel_once_and_are_those_of_the_slow_loops(
    height: int, width: int, patch_size: int
) -> None:
    boards = checkerboards(height, width, patch_size)
    assert (boards.sum(dim=0) == 1).all()
    np.testing.assert_array_equal(boards[:, 0].numpy(), reference.checkerboards(height, width, patch_size))


def test_pasting_takes_what_was_removed_and_keeps_the_rest() -> None:
    image = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]]).expand(1, 2, 2, 2)
    removed = torch.tensor([[[[True, False], [False, True]]]])
    painted = torch.where(removed, 0.9, torch.nan).expand(1, 2, 2, 2)  # what is not taken does no harm
    expected = torch.tensor([[0.9, 0.2], [0.3, 0.9]]).expand(1, 2, 2, 2)
    assert torch.equal(paste(image, painted, removed), expected)


@pytest.mark.parametrize(("draw", "share"), [(brush_strokes, STROKES_SHARE), (blobs, BLOBS_SHARE)])
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_drawn_masks_remove_a_share_that_is_uniform_between_limits(
    draw: Callable[..., Tensor], share: tuple[float, float], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    removed = draw(400, *size)
    assert removed.shape == (400, 1, *size)
    shares = removed.float().mean(dim=(1, 2, 3))
    assert share[0] <= shares.min() <= share[0] + 0.01
    assert share[1] - 0.01 <= shares.max() <= share[1] + 1e-3
    # 400 draws: a standard deviation of 0.006 and less
    assert shares.mean().item() == pytest.approx(sum(share) / 2, abs=0.02)
    torch.manual_seed(0)
    assert torch.equal(draw(400, *size), removed)
    # No place is left out, none is favoured by much.
    often = removed.float().mean(dim=0)
    assert often.min() > 0.3 * often.mean()
    assert often.max() < 2 * often.mean()


def test_strokes_are_few_and_hang_together() -> None:
    torch.manual_seed(0)
    numbers = [label(removed[0].numpy()).max() for removed in brush_strokes(200, 128, 128)]
    assert max(numbers) == MOST_STROKES
    assert min(numbers) == 1


@pytest.mark.parametrize("size", [(8, 8), (12, 40)])
def test_masks_of_small_images_remove_something_and_leave_something(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for draw in (brush_strokes, blobs):
        removed = draw(50, *size).flatten(1)
        assert removed.any(dim=1).all()
        assert not removed.all(dim=1).any()
