from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from riad_anomalib.components.corruption import displace, turning
from riad_anomalib.components.variation import STRENGTHS, Variation, moved, plain_strengths, vary

ALL = Variation(
    brightness=0.1,
    contrast=0.1,
    gamma=0.1,
    white_balance=0.1,
    illumination=0.1,
    noise=0.05,
    degrees=5,
    translate=0.1,
    scale=0.1,
    still=0.4,
)


def smooth_images(height: int, width: int, number: int = 2) -> Tensor:
    coarse = torch.rand(number, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_shift_by_whole_pixels_blurs_nothing_and_mirrors_the_border() -> None:
    image = torch.rand(2, 3, 8, 16)
    shift, still = torch.tensor([[2 / 16, 1 / 8], [-1 / 16, 0]]), torch.zeros(2)
    result = moved(image, still, shift, still + 1)
    torch.testing.assert_close(result[0, :, 1:, 2:], image[0, :, :-1, :-2])
    torch.testing.assert_close(result[0, :, 1:, :2], image[0, :, :-1, :2].flip(-1))
    torch.testing.assert_close(result[1, :, :, :-1], image[1, :, :, 1:])


def test_turns_keep_lengths_also_where_sides_differ() -> None:
    image, angle = smooth_images(48, 80), torch.tensor([0.1, -0.2])
    turned = moved(image, angle, torch.zeros(2, 2), torch.ones(2))
    torch.testing.assert_close(turned, displace(image, turning(angle, (48, 80))), atol=0.04, rtol=0)
    square = torch.rand(1, 3, 9, 9)
    quarter = moved(square, torch.tensor([torch.pi / 2]), torch.zeros(1, 2), torch.ones(1))
    torch.testing.assert_close(quarter, square.rot90(1, (-2, -1)), atol=1e-4, rtol=0)


def test_scale_enlarges_about_the_centre() -> None:
    image = smooth_images(32, 32, 1)
    larger = moved(image, torch.zeros(1), torch.zeros(1, 2), torch.tensor([2.0]))
    cut = torchvision.resize(image[..., 8:24, 8:24], [32, 32], antialias=False)
    torch.testing.assert_close(larger[..., 4:-4, 4:-4], cut[..., 4:-4, 4:-4], atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("strengths", "like_torchvision"),
    [
        ({"brightness": 0.3}, lambda image, factor: image * factor),
        ({"gamma": 0.3}, lambda image, factor: image**factor),
        ({"contrast": 0.3}, lambda image, factor: image.mean() + (image - image.mean()) * factor),
    ],
)
def test_each_image_has_a_factor_of_its_own_within_the_strength(strengths: Any, like_torchvision: Any) -> None:
    image = 0.3 + 0.3 * torch.rand(1, 3, 4, 4, generator=seeded())  # nothing is clipped
    images = image.expand(500, -1, -1, -1)
    varied = vary(images, Variation(**strengths, still=0), seeded())
    weakest, strongest = (like_torchvision(image[0], factor) for factor in (0.7, 1.3))
    low, high = torch.minimum(weakest, strongest), torch.maximum(weakest, strongest)
    assert ((varied > low - 1e-5) & (varied < high + 1e-5)).all()
    for extreme in (weakest, strongest):
        assert (varied - extreme).abs().amax(dim=(1, 2, 3)).min() < 0.02  # draws reach both ends
    assert len(varied.flatten(1).unique(dim=0)) == 500


def test_light_changes_channels_and_places_as_it_says() -> None:
    grey = torch.full((100, 3, 5, 9), 0.5)
    channels = vary(grey, Variation(white_balance=0.1, still=0), seeded())
    assert torch.equal(channels, channels[..., :1, :1].expand_as(channels))
    assert (channels / 0.5 - 1).abs().max() == pytest.approx(0.1, abs=0.01)
    ramps = vary(grey, Variation(illumination=0.2, still=0), seeded())
    torch.testing.assert_close(ramps[..., 2, 4], grey[..., 2, 4])
    torch.testing.assert_close(ramps[..., 2, 0] + ramps[..., 2, 8], 2 * grey[..., 2, 0])
    assert (ramps[..., 2, 8] / 0.5 - 1).abs().max() == pytest.approx(0.2, abs=0.01)
    noisy = vary(grey, Variation(noise=0.1, still=0), seeded())
    assert (noisy - grey).std(dim=(1, 2, 3)).max() == pytest.approx(0.1, abs=0.02)
    assert (noisy - grey).std(dim=(1, 2, 3)).min() < 0.01


def test_a_share_of_images_stays_to_the_bit() -> None:
    images = torch.rand(300, 3, 8, 8)
    varied = vary(images, ALL, seeded())
    stays = (varied == images).flatten(1).all(dim=1).float().mean()
    assert stays == pytest.approx(0.4, abs=0.1)
    assert varied.min() >= 0
    assert varied.max() <= 1


def test_draws_are_the_generators_alone_and_in_float32_under_autocast() -> None:
    images = smooth_images(16, 24)
    state = torch.random.get_rng_state()
    first = vary(images, ALL, seeded())
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = vary(images, ALL, seeded())
    assert torch.equal(first, again)
    assert not torch.equal(first, vary(images, ALL, seeded(1)))
    low = vary(images.bfloat16(), ALL, seeded())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), first, atol=0.03, rtol=0)


def test_every_strength_matters() -> None:
    images = smooth_images(16, 24)
    for name in STRENGTHS:
        if name != "still":
            assert not torch.allclose(vary(images, Variation(**{name: 0.2, "still": 0.0}), seeded()), images), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.1, r"variation is 0.1: give strengths by name, for example \{brightness: 0.1, degrees: 2\}"),
        ({"hue": 0.1}, "variation has no strength hue: choose out of brightness, contrast"),
        ({"brightness": -0.1}, r"variation's brightness is -0.1: it must be in \[0, 1\]; 0 switches it off"),
        ({"degrees": 200}, r"variation's degrees is 200: it must be in \[0, 180\]"),
        ({"scale": 1}, r"variation's scale is 1: it must be in \[0, 1\)"),
        ({"brightness": "much"}, "variation's brightness is 'much': it must be a finite number"),
        ({"brightness": 0.1, "still": 1}, r"variation's still is 1: it must be in \[0, 1\)"),
        ({"still": 0.5}, "variation has strengths of 0 alone: give one, such as brightness: 0.1"),
    ],
)
def test_strengths_that_mean_nothing_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_strengths(given)


def test_no_strengths_are_no_variation() -> None:
    assert plain_strengths(None) is plain_strengths({}) is None
