import pytest
import torch
from half_precision import HalfPrecisionRuntime
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, Resize

from riad_anomalib.components.resize import KERNELS, AntialiasedResize

sides = st.integers(2, 70)  # torch makes black of some images that are one pixel wide


def noise(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@given(sides, sides, sides, sides, st.sampled_from(list(KERNELS)))
def test_it_resizes_as_torchvision_does(height: int, width: int, to_height: int, to_width: int, kernel: str) -> None:
    image, size = noise(height, width), (to_height, to_width)
    expected = Resize(size, interpolation=InterpolationMode(kernel), antialias=True)(image)
    # torchvision's own rounding errors are up to 6e-6.
    torch.testing.assert_close(AntialiasedResize(size, kernel)(image), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "side", "tolerance"),
    [(torch.bfloat16, 200, 2**-8), (torch.float16, 300, 2**-11), (torch.float64, 300, 1e-14)],
)
def test_it_resizes_as_torchvision_does_in_every_precision(dtype: torch.dtype, side: int, tolerance: float) -> None:
    image = noise(side, side + 30).to(dtype)
    expected = Resize((128, 120), antialias=True)(image)  # the tolerance is one step of the type just below 1
    torch.testing.assert_close(AntialiasedResize((128, 120))(image), expected, atol=tolerance, rtol=0)


def test_mixed_precision_does_not_reach_it() -> None:
    resize, image = AntialiasedResize((128, 120)), noise(200, 230)
    expected = resize(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize(image), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [200, 300, 1000, 5000])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_runtime_of_half_precision_costs_little_and_leaves_even_surfaces_even(
    dtype: torch.dtype,
    side: int,
    kernel: str,
) -> None:
    resize, image = AntialiasedResize((128, 64), kernel), noise(side, 150)
    exact = resize(image)
    even = torch.full_like(image, 0.7).to(dtype).float()
    step = torch.finfo(dtype).eps / 2  # between 0.5 and 1
    with HalfPrecisionRuntime(dtype):
        resized, resized_even = resize(image), resize(even)
    assert (resized - exact).abs().max() < 3 * step
    assert (resized_even - even[0, 0, 0, 0]).abs().max() <= step


def test_an_image_of_the_size_stays_as_it_is() -> None:
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(AntialiasedResize((20, 30))(image), image)
