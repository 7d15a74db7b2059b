from itertools import pairwise

import numpy as np
import pytest
import reference
import torch
from reference import Array
from torch import Tensor

from riad_anomalib.components.masking import checkerboards
from riad_anomalib.components.similarity import ssim_difference
from riad_anomalib.models.i3ad.iteration import iterate

SIZE = (20, 24)


def background(visible: Array, removed: Array) -> Array:
    """A painter of one channel that knows the normal image, but for a shift by what it sees."""
    ramp = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1])) / sum(SIZE)
    shift: Array = (visible - ramp * (1 - removed)).sum() / max((1 - removed).sum(), 1)
    return ramp + shift


def paint(image: Tensor, removed: Tensor) -> Tensor:
    """The same for a batch, which does not look at what was removed."""
    painted = [
        background(visible[0].numpy(), hole[0].double().numpy())
        for visible, hole in zip(image.masked_fill(removed, 0), removed, strict=True)
    ]
    return torch.from_numpy(np.stack(painted))[:, None]


@pytest.fixture
def images() -> Tensor:
    """The normal image and one with a broken square in it."""
    image = torch.from_numpy(background(np.zeros(SIZE), np.ones(SIZE))).repeat(2, 1, 1, 1)
    image[1, :, 6:12, 8:14] = torch.rand(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return image


@pytest.mark.parametrize("threshold", [0.05, 0.2])
def test_the_rounds_agree_with_the_slow_loops(images: Tensor, threshold: float) -> None:
    rounds = iterate(paint, images, checkerboards(*SIZE, 5), threshold, iterations=4)
    for i, image in enumerate(images):
        expected = reference.i3ad_rounds(image[0].numpy(), background, 5, threshold, iterations=4)
        for made, (removed, reconstruction) in zip(rounds, expected, strict=True):
            np.testing.assert_array_equal(made.removed[i, 0].numpy(), removed)
            np.testing.assert_allclose(made.reconstruction[i, 0].numpy(), reconstruction, atol=1e-12)


def test_what_is_normal_comes_back_and_what_is_not_stays_removed(images: Tensor) -> None:
    *_, before, last = iterate(paint, images, checkerboards(*SIZE, 5), 0.05, iterations=6)
    assert not last.removed[0].any()
    assert last.removed[1, :, 7:11, 9:13].all()  # but for the square's edge
    assert not last.removed[1, :, :, 20:].any()
    assert torch.equal(before.removed, last.removed)  # it has come to rest
    # With the square removed, the shift that it caused is gone.
    first = iterate(paint, images, checkerboards(*SIZE, 5), 0.05, iterations=1)[0]
    error, error_first = (
        (made.reconstruction[1, :, 7:11, 9:13] - images[0, :, 7:11, 9:13]).abs().mean() for made in (last, first)
    )
    assert error < 0.1 * error_first


def test_every_pixel_of_the_first_round_comes_from_the_board_that_removes_it() -> None:
    boards = checkerboards(*SIZE, 6)
    seen = list[Tensor]()

    def number(image: Tensor, removed: Tensor) -> Tensor:
        seen.append(removed)
        return torch.arange(float(len(image))).reshape(-1, 1, 1, 1).expand_as(image)

    (made,) = iterate(number, torch.rand(2, 3, *SIZE), boards, 0.5, iterations=1)
    assert torch.equal(seen[0], boards.repeat(2, 1, 1, 1))
    for i in range(2):
        for j, board in enumerate(boards):
            assert (made.reconstruction[i][board.expand(3, -1, -1)] == 4 * i + j).all()
    assert made.removed.all()


def test_what_is_visible_is_the_original_in_every_round() -> None:
    """A painter whose result is always wrong by the same, and never looked at again."""
    image = torch.rand(1, 3, *SIZE)
    shown = list[Tensor]()

    def wrong(image: Tensor, removed: Tensor) -> Tensor:
        del removed
        shown.append(image)
        return torch.zeros_like(image)

    rounds = iterate(wrong, image, checkerboards(*SIZE, 6), 0.3, iterations=5)
    assert all(torch.equal(batch, image) for batch in shown[1:])
    for before, after in pairwise(rounds):
        assert torch.equal(after.removed, ssim_difference(image, before.reconstruction) >= 0.3)
        assert torch.equal(after.reconstruction, image.masked_fill(after.removed, 0))
