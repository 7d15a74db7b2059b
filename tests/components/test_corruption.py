import re
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from riad_anomalib.components import corruption
from riad_anomalib.components.corruption import (
    AUGMENTATIONS,
    augment,
    check_augmentation,
    check_corruptions,
    corrupt,
    displace,
    random_crop,
    smooth,
    soft_ellipses,
    turning,
)

EVERYTHING = (5.0, 5.0)
"""Size of a patch that covers the image wherever it lies, if its edge is even."""
NOTHING = (1e-4, 1e-4)
"""Size of a patch that misses every pixel, nearly always."""


@pytest.fixture
def even_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruption, "EDGE_NOISE", 0.0)


def photograph(number: int, height: int = 32, width: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.rand(number, 3, height, width, generator=generator)).clamp(max=1)  # a third is saturated


def coordinates(number: int) -> Tensor:
    """An image whose two channels tell row and column, in hundredths from the centre."""
    offset = torch.arange(-16.0, 17)
    return torch.stack(torch.meshgrid(offset, offset, indexing="ij")).expand(number, 2, 33, 33) / 100 + 0.5


@settings(deadline=None, max_examples=50)
@given(
    number=st.integers(1, 3),
    height=st.integers(16, 40),
    width=st.integers(16, 40),
    kinds=st.sets(st.sampled_from(["elastic", "occlusion", "zeros"]), min_size=1),
    rotation=st.booleans(),
    num_patches=st.integers(1, 5),
    brightness=st.floats(0, 1),
    size=st.floats(0.001, 2),
)
def test_where_nothing_is_replaced_the_image_stays_to_the_bit(
    number: int,
    height: int,
    width: int,
    kinds: set[str],
    rotation: bool,
    num_patches: int,
    brightness: float,
    size: float,
) -> None:
    image = photograph(number, height, width)
    corruptions = sorted(kinds) + ["rotation"] * rotation
    corrupted, replaced = corrupt(image, corruptions, num_patches, brightness, patch_size=(size, 2 * size))
    assert corrupted.shape == image.shape
    assert replaced.shape == (number, 1, height, width)
    assert ((replaced >= 0) & (replaced <= 1)).all()
    assert ((corrupted >= 0) & (corrupted <= 1)).all()
    untouched = (replaced == 0).expand_as(image)
    assert torch.equal(corrupted[untouched], image[untouched])


def test_content_shows_through_as_far_as_a_pixel_is_replaced() -> None:
    torch.manual_seed(0)
    image = photograph(4)
    corrupted, replaced = corrupt(image, ["zeros"], 3, 0.2)
    assert ((replaced > 0.2) & (replaced < 0.8)).any(dim=3).any(dim=2).all()
    torch.testing.assert_close(corrupted, (1 - replaced) * image)


def test_one_pixel_to_the_side_by_hand() -> None:
    image = torch.tensor([[[[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]]])
    displacement = torch.zeros(1, 2, 2, 3)
    torch.testing.assert_close(displace(image, displacement), image)
    displacement[:, 1] = 1
    torch.testing.assert_close(displace(image, displacement)[0, 0], torch.tensor([[0.1, 0.2, 0.2], [0.4, 0.5, 0.5]]))
    displacement[:, 1] = 0
    displacement[:, 0] = -0.5
    torch.testing.assert_close(displace(image, displacement)[0, 0], torch.tensor([[0.0, 0.1, 0.2], [0.15, 0.25, 0.35]]))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_the_formulas_agree_with_the_slow_loops(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, height, width, dtype=torch.float64)
    displacement = 10 * torch.randn(2, 2, height, width, dtype=torch.float64)
    seen = displace(image, displacement)
    noise = torch.randn(2, 2, 3, 5, dtype=torch.float64)
    sigma = torch.tensor([[3.0, 4.0], [5.0, 9.0]], dtype=torch.float64)
    spread = smooth(noise, (height, width), sigma)
    centre = torch.rand(2, 3, 2, dtype=torch.float64) * 12
    half_axes = 3 + 4 * torch.rand(2, 3, 2, dtype=torch.float64)
    angle = 3 * torch.rand(2, 3, dtype=torch.float64)
    patches = soft_ellipses(centre, half_axes, angle, spread[:, :1])
    assert (patches > 0.1).flatten(2).any(dim=2).all()
    for i in range(2):
        down, right = displacement[i].numpy()
        np.testing.assert_allclose(seen[i, 0].numpy(), reference.displace(image[i, 0].numpy(), down, right))
        for j in range(2):
            slow = reference.smooth(noise[i, j].numpy(), height, width, sigma[i, j].item())
            np.testing.assert_allclose(spread[i, j].numpy(), slow)
        for j in range(3):
            slow = reference.soft_ellipse(
                centre[i, j].numpy(), half_axes[i, j].numpy(), angle[i, j].item(), spread[i, 0].numpy()
            )
            np.testing.assert_allclose(patches[i, j].numpy(), slow, atol=1e-12)


def test_an_ellipse_by_hand() -> None:
    half_axes = torch.tensor([[[20.0, 5.0]]])
    (patch,) = soft_ellipses(torch.tensor([[[30.0, 10.0]]]), half_axes, torch.zeros(1, 1), torch.zeros(1, 1, 60, 30))[0]
    # Down the long axis: radius 0.7 is still whole, 0.85 is half way of the edge, 1 is out.
    torch.testing.assert_close(patch[[30, 44, 47, 50, 51], 10], torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0]))
    torch.testing.assert_close(patch[30, [7, 13, 15, 16]], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(patch[30, [6, 14]], torch.full((2,), 20 / 27))  # 2/3 of the way in


def test_smooth_noise_has_variance_1_at_every_pixel_and_is_as_smooth_as_asked() -> None:
    torch.manual_seed(0)
    noise = smooth(torch.randn(4000, 1, 6, 6), (24, 24), torch.full((4000, 1), 4.0))
    variance = noise.square().mean(dim=0)
    assert (variance - 1).abs().max() < 0.12  # a standard deviation of 0.022, 576 times
    rough = smooth(torch.randn(4000, 1, 6, 6), (24, 24), torch.full((4000, 1), 1e-3))
    assert (rough.square().mean(dim=0) - 1).abs().max() < 0.12
    # Two pixels d apart under a Gaussian of standard deviation s correlate by exp(-d^2 / 4s^2).
    assert (noise[..., 8:16, 8] * noise[..., 8:16, 16]).mean() == pytest.approx(np.exp(-1), abs=0.05)


def test_turning_by_a_quarter_and_by_half() -> None:
    image = photograph(2, 9, 9)
    turned = displace(image, turning(torch.tensor([torch.pi / 2, torch.pi]), (9, 9)))
    torch.testing.assert_close(turned[0], image[0].rot90(1, (1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1], image[1].flip(1, 2), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("even_edge")
def test_a_deformation_has_the_strength_that_was_asked_for() -> None:
    """The grey of a ramp tells where a pixel came from."""
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 128).expand(400, 1, 128, 128)
    for image, axis in ((ramp, 3), (ramp.mT, 2)):
        corrupted, replaced = corrupt(image, ["elastic"], 1, 0.0, patch_size=EVERYTHING)
        assert (replaced == 1).all()
        shift = ((corrupted - image) * 127).narrow(axis, 54, 20)  # nothing is mirrored so far inside
        # The mean square of U(0.02, 0.09) * 128 pixels.
        expected = (0.09**3 - 0.02**3) / (3 * 0.07) * 128**2
        assert shift.square().mean() == pytest.approx(expected, rel=0.08)
        strengths = shift.square().mean(dim=(1, 2, 3)).sqrt() / 128
        assert strengths.min() < 0.025
        assert strengths.max() > 0.08


def test_a_patch_has_the_size_that_was_asked_for() -> None:
    torch.manual_seed(0)
    image = torch.ones(1000, 1, 64, 64)
    _, replaced = corrupt(image, ["zeros"], 1, 0.0)
    # Half-axes of mean 0.17 / log(0.2 / 0.03) = 0.090 span 0.025 of the image. Of that the soft edge leaves 0.73, or
    # 0.77 where it is uneven, and the image's border cuts off a little.
    assert replaced.mean() == pytest.approx(0.0185, abs=0.0015)
    assert replaced.mean(dim=(1, 2, 3)).max() < 0.13
    _, replaced = corrupt(image, ["zeros"], 3, 0.0)
    assert replaced.mean() == pytest.approx(2 * 0.0185, rel=0.1)  # 1, 2 or 3 patches, which seldom meet
    _, replaced = corrupt(image, ["occlusion"], 1, 0.0)
    assert replaced.mean() == pytest.approx(3 * 0.0185, rel=0.1)
    _, replaced = corrupt(image, ["zeros"], 1, 0.0, patch_size=NOTHING)
    assert (replaced.flatten(1).amax(dim=1) == 0).float().mean() > 0.99


def test_patches_lie_everywhere_in_every_direction() -> None:
    torch.manual_seed(0)
    _, replaced = corrupt(torch.ones(3000, 1, 16, 16), ["zeros"], 1, 0.0)
    share = replaced.mean(dim=(0, 1))
    assert share[:4, :4].mean() > 0.5 * share[6:10, 6:10].mean()
    assert share[12:, 12:].mean() > 0.5 * share[6:10, 6:10].mean()
    # As often along a diagonal of the image as along an axis: twice the angle of the longer half-axis is uniform.
    patches = replaced[(replaced.mean(dim=(1, 2, 3)) > 0.02) & (replaced[:, 0, [0, -1]].amax(dim=(1, 2)) == 0)]
    patches = patches[patches[..., [0, -1]].amax(dim=(1, 2, 3)) == 0].squeeze(1)
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")

    def mean(values: Tensor) -> Tensor:
        return ((values * patches).sum(dim=(1, 2)) / patches.sum(dim=(1, 2)))[:, None, None]

    row, column = row - mean(row), column - mean(column)
    direction = torch.atan2(2 * mean(row * column), mean(row**2) - mean(column**2))
    assert len(direction) > 300
    diagonal = direction.sin() > 0.5**0.5, direction.sin() < -(0.5**0.5)
    assert all(0.2 < found.float().mean() < 0.3 for found in diagonal)


@pytest.mark.usefixtures("even_edge")
def test_half_of_the_deformed_patches_get_another_brightness() -> None:
    torch.manual_seed(0)
    grey = torch.full((400, 3, 32, 32), 0.5)
    corrupted, replaced = corrupt(grey, ["elastic"], 1, 0.2, patch_size=EVERYTHING)
    assert (replaced == 1).all()
    change = corrupted - 0.5
    torch.testing.assert_close(change, change[:, :1, :1, :1].expand_as(change), atol=1e-6, rtol=0)
    change = change[:, 0, 0, 0]
    assert ((change.abs() > 1e-4).float().mean() - 0.5).abs() < 0.1
    assert -0.2 <= change.min() < -0.18
    assert 0.18 < change.max() <= 0.2


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("corruptions", [["elastic"], ["elastic", "rotation"]])
def test_a_flat_image_stays_flat_under_deformation(level: float, corruptions: list[str]) -> None:
    torch.manual_seed(0)
    image = torch.full((8, 3, 129, 129), level)  # at this size interpolation rounds beyond 1
    corrupted, replaced = corrupt(image, corruptions, 3, 0.0)
    torch.testing.assert_close(corrupted, image, atol=1e-6, rtol=0)
    assert corrupted.max() <= 1
    assert replaced.isfinite().all()


@pytest.mark.usefixtures("even_edge")
def test_an_occluded_image_shows_another_one_or_a_colour() -> None:
    torch.manual_seed(0)
    image = torch.arange(200.0).remainder(2).reshape(200, 1, 1, 1).expand(200, 3, 24, 24)  # black, white, black, ...
    corrupted, replaced = corrupt(image, ["occlusion"], 1, 0.0, patch_size=EVERYTHING)
    assert (replaced == 1).all()
    next_image = (corrupted - (1 - image)).abs().flatten(1).amax(dim=1) < 1e-6
    assert (next_image.float().mean() - 0.5).abs() < 0.15
    colours = corrupted[~next_image].mean(dim=(2, 3))
    assert colours.std(dim=0).min() > 0.2
    assert corrupted[~next_image].std(dim=(2, 3)).min() > 0.01  # not one grey: it has a grain


@pytest.mark.usefixtures("even_edge")
def test_an_occluding_image_shows_any_of_its_places_turned_by_any_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(corruption, "COLOUR_NOISE", 0.0)
    for number, times in ((300, 1), (1, 300)):  # a batch of one shows another place of itself
        drawn = [corrupt(coordinates(number), ["occlusion"], 1, 0.0, patch_size=EVERYTHING)[0] for _ in range(times)]
        corrupted = torch.cat(drawn)
        corrupted = corrupted[corrupted.std(dim=(2, 3)).amax(dim=1) > 0.01]  # images, not colours
        shift = 100 * (corrupted[..., 16, 16] - 0.5)  # uniform in [-16.5, 16.5]
        assert ((shift.square().mean(dim=0).sqrt() - 33 / 12**0.5).abs() < 1.5).all()
        quadrants = ((corrupted[..., 16, 17] - corrupted[..., 16, 16]) > 0).float() @ torch.tensor([2.0, 1.0])
        assert quadrants.long().bincount(minlength=4).min() > 20


@pytest.mark.usefixtures("even_edge")
def test_corruptions_take_turns_image_by_image() -> None:
    torch.manual_seed(0)
    corrupted, _ = corrupt(torch.ones(300, 1, 16, 16), ["elastic", "zeros"], 1, 0.0, patch_size=EVERYTHING)
    levels = corrupted.mean(dim=(1, 2, 3))
    assert ((levels < 1e-6) | (levels > 1 - 1e-6)).all()
    assert (levels.mean() - 0.5).abs() < 0.12


def test_rotation_turns_half_of_the_images_and_says_what_it_changed() -> None:
    torch.manual_seed(0)
    image = photograph(1).expand(200, 3, 32, 40)
    corrupted, replaced = corrupt(image, ["zeros", "rotation"], 1, 0.0, patch_size=NOTHING)
    difference = (corrupted - image).abs().mean(dim=1, keepdim=True)
    torch.testing.assert_close(replaced, (10 * difference).clamp(max=1))
    turned = replaced.mean(dim=(1, 2, 3)) > 0.5
    assert (turned.float().mean() - 0.5).abs() < 0.12
    assert (replaced[~turned] == 0).all()


def test_rotation_turns_either_way_but_not_by_small_angles() -> None:
    torch.manual_seed(0)
    corrupted, _ = corrupt(coordinates(400), ["zeros", "rotation"], 1, 0.0, patch_size=NOTHING)
    row, column = (corrupted[:, :, 16, 24] - 0.5).unbind(dim=1)
    angle = torch.rad2deg(torch.atan2(row, column))
    angle = angle[angle != 0]
    assert 150 < len(angle) < 250
    assert 10 <= angle.abs().min() < 15
    assert angle.min() < -170
    assert angle.max() > 170
    assert ((angle > 0).float().mean() - 0.5).abs() < 0.15


def test_an_image_is_corrupted_without_regard_to_the_others_of_its_batch() -> None:
    image = photograph(3)
    other = torch.cat([image[:1], photograph(2, seed=1)])
    torch.manual_seed(0)
    corrupted, replaced = corrupt(image, ["elastic", "zeros", "rotation"], 3, 0.2)
    torch.manual_seed(0)
    corrupted_beside_others, replaced_beside_others = corrupt(other, ["elastic", "zeros", "rotation"], 3, 0.2)
    assert torch.equal(corrupted[0], corrupted_beside_others[0])
    assert torch.equal(replaced[0], replaced_beside_others[0])
    assert len({patch.numpy().tobytes() for patch in replaced}) == 3


def test_the_seed_decides() -> None:
    image = photograph(2)
    torch.manual_seed(0)
    first, second = (corrupt(image, ["elastic", "occlusion"], 2, 0.2)[0] for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(first, corrupt(image, ["elastic", "occlusion"], 2, 0.2)[0])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_at_the_end_alone(dtype: torch.dtype) -> None:
    corruptions = ["elastic", "occlusion", "rotation"]
    image = photograph(4).to(dtype)
    torch.manual_seed(0)
    whole = corrupt(image.float(), corruptions, 3, 0.2)
    torch.manual_seed(0)
    half = corrupt(image, corruptions, 3, 0.2)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=dtype):
        autocast = corrupt(image.float(), corruptions, 3, 0.2)
    for i in range(2):
        assert torch.equal(half[i], whole[i].to(dtype))
        assert torch.equal(autocast[i], whole[i])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corruptions": "elastic"}, "corruptions is 'elastic': it must be a list of names out of"),
        ({"corruptions": ["elastic", "perlin"]}, "corruptions is ['elastic', 'perlin']: it must be a list of names"),
        ({"corruptions": ["zeros", "zeros"]}, "names one twice"),
        ({"corruptions": []}, "corruptions is []: give at least one of"),
        ({"corruptions": ["rotation"]}, "'rotation' turns what they have corrupted"),
        ({"num_patches": 0}, "num_patches is 0: it must be at least 1"),
        ({"num_patches": 1.5}, "num_patches is 1.5: it must be a whole number"),
        ({"brightness": -0.1}, "brightness is -0.1: it must be in [0, 1]"),
        ({"brightness": float("nan")}, "brightness is nan: it must be a finite number"),
        ({"patch_size": (0.2, 0.1)}, "patch_size is (0.2, 0.1): it must be two positive shares"),
        ({"patch_size": (0.1,)}, "patch_size is (0.1,): it must be two positive shares"),
        ({"displacement": (0, 0.1)}, "displacement is (0, 0.1): it must be two positive shares"),
        ({"displacement": (0.1, float("inf"))}, "displacement is inf: it must be a finite number"),
    ],
)
def test_what_cannot_corrupt_is_refused(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"corruptions": ["elastic", "rotation"], "num_patches": 1, "brightness": 0.2}
    check_corruptions(**good)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_corruptions(**good | arguments)


@pytest.mark.parametrize(("augmentation", "number"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_an_augmentation_arranges_each_image_in_all_its_ways(augmentation: str, number: int) -> None:
    torch.manual_seed(0)
    image = photograph(1, 8, 8)
    square = [image[0].rot90(k, (1, 2)) for k in range(4)]
    ways = {"none": square[:1], "flips": [f for x in (square[0], square[2]) for f in (x, x.flip(2))]}
    ways["dihedral"] = [f for x in square for f in (x, x.flip(2))]
    allowed = {way.contiguous().numpy().tobytes() for way in ways[augmentation]}
    seen = [view.numpy().tobytes() for view in augment(image.expand(400, 3, 8, 8), augmentation)]
    assert set(seen) == allowed
    assert len(allowed) == number
    assert max(map(seen.count, allowed)) < 2.1 * min(map(seen.count, allowed))


def test_an_augmentation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augmentation is 'flip': choose one of \['none', 'flips', 'dihedral'\]"):
        augment(photograph(1), "flip")
    with pytest.raises(ValueError, match="but they are 32x40: make them square, or choose 'flips'"):
        augment(photograph(1), "dihedral")
    with pytest.raises(ValueError, match="corruption 'rotation' that they are not: drop one of them"):
        check_augmentation("dihedral", (32, 32), ["elastic", "rotation"])
    for augmentation in AUGMENTATIONS:
        check_augmentation(augmentation, (32, 32), ["elastic"])
    check_augmentation("flips", (32, 40), ["elastic", "rotation"])


@pytest.mark.parametrize(
    ("scale", "size"),
    [(1, (32, 40)), (0.75, (24, 32)), (0.5, (16, 16)), (0.01, (8, 8))],
)
def test_a_crop_is_one_window_of_the_whole_batch(scale: float, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    image = torch.stack([row, column]).expand(3, 2, 32, 40)
    places = set()
    for _ in range(300):
        crop = random_crop(image, scale, 8)
        assert crop.shape == (3, 2, *size)
        top, left = map(int, crop[0, :, 0, 0])
        assert torch.equal(crop, image[..., top : top + size[0], left : left + size[1]])
        places.add((top, left))
    tops, lefts = (set(found) for found in zip(*places, strict=True))
    assert tops == set(range(33 - size[0]))
    assert lefts == set(range(41 - size[1]))


def test_a_crop_never_leaves_an_image_that_is_no_multiple() -> None:
    assert random_crop(photograph(1, 30, 31), 1, 8).shape == (1, 3, 24, 24)
