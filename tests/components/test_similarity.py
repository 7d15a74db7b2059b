from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from half_precision import HalfPrecisionRuntime
from kornia.metrics import ssim
from skimage.metrics import structural_similarity
from torch import Tensor

from riad_anomalib.components.similarity import (
    GMS_CONSTANT,
    absolute_difference,
    gms,
    gms_difference,
    gms_difference_pyramid,
    gradient_magnitude,
    msgms_difference,
    msgms_grey_difference,
    one_minus_ssim,
    squared_difference,
    ssim_difference,
    ssim_per_channel,
)

Compare = Callable[[Tensor, Tensor], Tensor]


def ssim_loss(image: Tensor, reconstruction: Tensor) -> Tensor:
    return 1 - ssim_per_channel(image, reconstruction)


@pytest.fixture
def difficult() -> tuple[Tensor, Tensor]:
    """Pictures whose variance E[x^2] - E[x]^2 cancels in: bright and flat, black and white, ramps; nearly repaired."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(40.0), indexing="ij")
    noise = torch.randn(5, 3, 48, 40, generator=generator)
    image = torch.stack(
        [
            torch.full((48, 40), 0.9),
            ((rows // 16 + columns // 16) % 2),
            rows / 47,
            0.5 + 0.5 * torch.sin(columns),
            torch.zeros(48, 40),
        ]
    )[:, None].expand(-1, 3, -1, -1)
    image = (image + 0.01 * noise.flip(0)).clamp(0, 1)
    reconstruction = (image + 0.02 * noise).clamp(0, 1)
    reconstruction[..., 20:30, 10:20] = 0.3
    return image, reconstruction


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, 16, 24, dtype=torch.float64), torch.rand(2, 3, 16, 24, dtype=torch.float64)


def test_the_gradient_of_a_ramp_is_its_slope() -> None:
    # Prewitt entries of 1/3 span two pixels: 2 * slope inside, 1 * slope at the replicated border.
    ramp = (0.1 * torch.arange(5, dtype=torch.float64)).repeat(4, 1)[None, None]
    expected = torch.tensor([0.1, 0.2, 0.2, 0.2, 0.1], dtype=torch.float64).repeat(4, 1)[None, None]
    torch.testing.assert_close(gradient_magnitude(ramp), expected)
    torch.testing.assert_close(gradient_magnitude(ramp.mT), expected.mT)


def test_the_gradient_agrees_with_the_slow_loop(pair: tuple[Tensor, Tensor]) -> None:
    for image, magnitude in zip(pair[0].flatten(0, 1), gradient_magnitude(pair[0]).flatten(0, 1), strict=True):
        np.testing.assert_allclose(magnitude.numpy(), reference.gradient_magnitude(image.numpy()), atol=1e-9)


def test_gms_of_an_edge_against_flat_by_hand() -> None:
    edge = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(4, 1)[None, None]
    similarity = gms(edge, torch.full_like(edge, 0.5))
    beside_the_edge = GMS_CONSTANT / (1 + GMS_CONSTANT)  # g = 1, g_r = 0
    expected = torch.tensor([1.0, beside_the_edge, beside_the_edge, 1.0]).repeat(4, 1)
    torch.testing.assert_close(similarity[0, 0], expected, atol=1e-3, rtol=0)


def test_gms_agrees_with_the_slow_loop_at_every_scale(pair: tuple[Tensor, Tensor]) -> None:
    image, reconstruction = (x[0, 0].numpy() for x in pair)
    for difference in gms_difference_pyramid(*pair):
        np.testing.assert_allclose(1 - difference[0, 0].numpy(), reference.gms(image, reconstruction), atol=1e-5)
        image, reconstruction = reference.halve(image), reference.halve(reconstruction)


def test_msgms_agrees_with_the_slow_loop(pair: tuple[Tensor, Tensor]) -> None:
    similarity = 1 - msgms_difference(*pair)
    for i in range(2):
        per_channel = [reference.msgms_map(pair[0][i, c].numpy(), pair[1][i, c].numpy()) for c in range(3)]
        np.testing.assert_allclose(similarity[i, 0].numpy(), np.mean(per_channel, axis=0), atol=1e-5)


def test_grey_msgms_sees_what_all_channels_share(pair: tuple[Tensor, Tensor]) -> None:
    grey = [image.mean(dim=1, keepdim=True) for image in pair]
    torch.testing.assert_close(msgms_grey_difference(*pair), msgms_difference(*grey))
    recoloured = pair[0].flip(1)
    assert msgms_difference(pair[0], recoloured).min() > 0.01
    assert msgms_grey_difference(pair[0], recoloured).max() < 1e-20


def test_ssim_agrees_with_scikit_image_inside_the_border(pair: tuple[Tensor, Tensor]) -> None:
    similarity = 1 - one_minus_ssim(*pair)
    for i in range(2):
        _, expected = structural_similarity(
            pair[0][i].numpy(),
            pair[1][i].numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            win_size=11,
            full=True,
        )
        # The two reflect the border differently, with and without its last pixel.
        inside = (slice(5, -5), slice(5, -5))
        np.testing.assert_allclose(similarity[i, 0].numpy()[inside], expected.mean(axis=0)[inside], atol=1e-7)


def test_differences_agree_with_the_slow_loops_to_the_border(pair: tuple[Tensor, Tensor]) -> None:
    for i in range(2):
        channels = [(pair[0][i, c].numpy(), pair[1][i, c].numpy()) for c in range(3)]
        expected = np.mean([(1 - reference.ssim(*channel)) / 2 for channel in channels], axis=0)
        np.testing.assert_allclose(ssim_difference(*pair)[i, 0].numpy(), expected, atol=1e-7)
        expected = np.mean([(image - made) ** 2 for image, made in channels], axis=0)
        np.testing.assert_allclose(squared_difference(*pair)[i, 0].numpy(), expected, atol=1e-12)
        expected = np.mean([abs(image - made) for image, made in channels], axis=0)
        np.testing.assert_allclose(absolute_difference(*pair)[i, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("difference_map", [msgms_difference, one_minus_ssim])
def test_an_image_differs_from_itself_by_nothing(difference_map: Compare, pair: tuple[Tensor, Tensor]) -> None:
    image = pair[0].float()
    assert not difference_map(image, image).any()
    different = difference_map(*pair)
    assert different.min() > 0
    torch.testing.assert_close(different, difference_map(*reversed(pair)))


def test_loss_and_map_are_the_ssim_of_kornia(difficult: tuple[Tensor, Tensor]) -> None:
    image, reconstruction = (x.double() for x in difficult)
    exact = 1 - ssim(image, reconstruction, window_size=11, max_val=1.0, eps=0.0)
    torch.testing.assert_close(one_minus_ssim(*difficult).double(), exact.mean(dim=1, keepdim=True), atol=2e-6, rtol=0)
    torch.testing.assert_close(1 - ssim_per_channel(*difficult).double(), exact, atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("difference_map", [one_minus_ssim, msgms_difference])
def test_a_runtime_of_half_precision_costs_little(
    difference_map: Compare,
    dtype: torch.dtype,
    difficult: tuple[Tensor, Tensor],
) -> None:
    image, reconstruction = (x.to(dtype).float() for x in difficult)
    exact = difference_map(image, reconstruction)
    with HalfPrecisionRuntime(dtype):
        rounded, of_itself = difference_map(image, reconstruction), difference_map(image, image)
    assert not of_itself.any()
    assert ((rounded - exact).abs() <= torch.finfo(dtype).eps * (1 + 15 * exact)).all()


@pytest.mark.parametrize("difference", [gms_difference, msgms_difference, one_minus_ssim, ssim_loss])
@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_the_derivative_is_finite_on_a_flat_image(difference: Compare, grey: float) -> None:
    flat = torch.full((1, 3, 16, 16), grey)
    for image in (flat, torch.rand(1, 3, 16, 16)):
        reconstruction = flat.clone().requires_grad_()
        difference(image, reconstruction).sum().backward()
        assert reconstruction.grad is not None
        assert reconstruction.grad.isfinite().all()


def test_derivatives_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    image, reconstruction = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64)
    reconstruction.requires_grad_()
    for function in (gms, msgms_difference, one_minus_ssim, ssim_loss):
        assert torch.autograd.gradcheck(lambda x, f=function: f(image, x), reconstruction)


def test_mixed_precision_does_not_reach_the_similarity(pair: tuple[Tensor, Tensor]) -> None:
    image, reconstruction = (x.float() for x in pair)
    for function in (msgms_difference, one_minus_ssim, ssim_loss):
        expected = function(image, reconstruction)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(function(image, reconstruction), expected)
