import pytest
import torch

from riad_anomalib.components.unet import InpaintingUNet


@pytest.mark.parametrize(("skip_connections", "parameters"), [(True, 28_800_835), (False, 25_667_395)])
def test_the_size_of_the_papers_network(skip_connections: bool, parameters: int) -> None:
    with torch.device("meta"):
        network = InpaintingUNet(3, 64, skip_connections)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("channels", [1, 3])
def test_it_returns_an_image_of_the_same_shape_in_0_1(channels: int) -> None:
    painted = InpaintingUNet(channels, 4, skip_connections=True)(torch.rand(2, channels, 32, 48))
    assert painted.shape == (2, channels, 32, 48)
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_skip_connections_carry_detail_past_the_bottleneck() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    for skip_connections in (True, False):
        network = InpaintingUNet(3, 4, skip_connections).eval()
        for parameter in network.encoder[-1].parameters():
            torch.nn.init.zeros_(parameter)
        reaches_the_output = not torch.equal(network(image), network(torch.rand_like(image)))
        assert reaches_the_output == skip_connections


def test_the_output_is_float32_under_mixed_precision() -> None:
    network = InpaintingUNet(3, 4, skip_connections=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        painted = network(torch.rand(2, 3, 16, 16))
    assert painted.dtype == torch.float32
    # A sigmoid in bfloat16 would have left fewer than 300 different values in these outputs' range.
    assert len(painted.unique()) > 500


def test_a_width_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="base_width is 0: it must be at least 1"):
        InpaintingUNet(3, 0, skip_connections=True)
