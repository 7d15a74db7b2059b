import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import Resize

from riad_anomalib.components.resize import AntialiasedResize

sides = st.integers(2, 70)  # torch makes black of some images that are one pixel wide


@given(sides, sides, sides, sides)
def test_it_resizes_as_torchvision_does(height: int, width: int, target_height: int, target_width: int) -> None:
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    size = (target_height, target_width)
    torch.testing.assert_close(AntialiasedResize(size)(image), Resize(size, antialias=True)(image), atol=2e-6, rtol=0)


def test_an_image_of_the_size_stays_as_it_is() -> None:
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(AntialiasedResize((20, 30))(image), image)
