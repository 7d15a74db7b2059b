import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from riad_anomalib.components.sdc import FilteringAutoEncoder, StackedDilatedConvolutions, check_image_size

PAPER = (1, 2, 4, 8, 16, 32)


def build(**arguments: Any) -> FilteringAutoEncoder:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"channels": 3, "base_width": 4, "kernel_size": 3, "dilations": (1, 2)}
    return FilteringAutoEncoder(**{**defaults, **arguments})


@pytest.mark.parametrize(
    ("width", "kernel_size", "parameters", "gflop"),
    [(64, 3, 14_131_459, 76.1), (64, 5, 22_782_211, 93.8), (32, 3, 3_536_003, 19.1), (16, 3, 885_571, 4.80)],
)
def test_the_size_and_cost_of_the_papers_network(width: int, kernel_size: int, parameters: int, gflop: float) -> None:
    with torch.device("meta"):
        network = FilteringAutoEncoder(3, width, kernel_size, PAPER).eval()
        assert sum(parameter.numel() for parameter in network.parameters()) == parameters
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 3, 256, 256)
    assert float(f"{counter.get_total_flops() / 1e9:.3g}") == gflop


def test_a_stack_sees_as_far_as_its_dilations_and_no_further() -> None:
    stack = StackedDilatedConvolutions(1, 2, kernel_size=3, dilations=(1, 8)).eval()
    stack.mixed = nn.Identity()  # type: ignore[assignment]
    for convolution in (stack.dilated[0][0], stack.dilated[1][0]):  # type: ignore[index]
        nn.init.ones_(convolution.weight)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16, 16] = 1
    for features, dilation in zip(stack(image).chunk(2, dim=1), (1, 8), strict=True):
        seen = {tuple(place) for place in features[0, 0].nonzero().tolist()}
        assert seen == {(16 + y * dilation, 16 + x * dilation) for y in (-1, 0, 1) for x in (-1, 0, 1)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_returns_an_image_of_the_same_shape_in_0_1(channels: int, kernel_size: int) -> None:
    image = torch.rand(2, channels, 32, 48)
    reconstruction = build(channels=channels, kernel_size=kernel_size)(image)
    assert reconstruction.shape == image.shape
    assert 0 <= reconstruction.min() < reconstruction.max() <= 1


def test_nothing_passes_by_the_blocks() -> None:
    network = build().eval()
    for parameter in network.blocks[0].parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(network(torch.rand(1, 3, 32, 32)), network(torch.rand(1, 3, 32, 32)))


def test_the_output_is_float32_under_mixed_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reconstruction = build()(torch.rand(2, 3, 32, 32))
    assert reconstruction.dtype == torch.float32
    # A sigmoid in bfloat16 would have left fewer than 300 different values in these outputs' range.
    assert len(reconstruction.unique()) > 500


@pytest.mark.parametrize(
    ("size", "dilations", "lost"),
    [((256, 256), PAPER, "[32]"), ((128, 128), PAPER, "[16, 32]"), ((512, 128), PAPER, "[16, 32]")],
)
def test_dilations_that_reach_only_padding_are_warned_of(
    size: tuple[int, int], dilations: tuple[int, ...], lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_image_size(size, dilations)
    assert f"Dilations {lost} reach only padding: at {size[0]}x{size[1]} the features are" in caplog.text


@pytest.mark.parametrize(("dilation", "matters"), [(7, True), (8, False)])
def test_a_dilation_of_the_features_side_uses_the_centre_of_its_kernel_alone(dilation: int, matters: bool) -> None:
    torch.manual_seed(0)
    stack = StackedDilatedConvolutions(1, 2, kernel_size=3, dilations=(dilation,)).eval()
    features = torch.rand(1, 1, 8, 8)
    before = stack(features)
    weight = stack.dilated[0][0].weight  # type: ignore[index]
    weight.data *= torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert torch.equal(stack(features), before) != matters


@pytest.mark.parametrize("dilations", [(1, 2, 4, 8), PAPER])
def test_an_untrained_block_hands_its_features_on(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    width = 8
    stack = StackedDilatedConvolutions(4 * width, width, 3, dilations).train()
    features = torch.rand(2, 4 * width, 16, 16)
    handed_on = stack(features)
    channels = [channel % (4 * width) for channel in range(width * len(dilations))]
    for channel, source in enumerate(channels):
        both = torch.stack([handed_on[:, channel].flatten(), features[:, source].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.3


def test_dilations_that_fit_bring_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_image_size((512, 512), PAPER)
        check_image_size((128, 136), PAPER[:4])
    assert not caplog.text


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((250, 256), "image size 250x256 is not a multiple of 8: set image_size to 248x256 or 256x256"),
        ((4, 16), "image size 4x16 is not a multiple of 8: set image_size to 8x16$"),
        ((0, 16), "image size 0x16 is not a multiple of 8: set image_size to 8x16$"),
    ],
)
def test_sizes_that_are_no_multiple_of_8_are_refused(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_image_size(size, (1,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_width": 0}, "base_width is 0: it must be at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4: it must be a positive odd number"),
        ({"kernel_size": -1}, "kernel_size is -1: it must be a positive odd number"),
        ({"kernel_size": 3.0}, "kernel_size is 3.0: it must be a whole number"),
        ({"dilations": ()}, r"dilations is \[\]: give different positive ones"),
        ({"dilations": (1, 2, 2)}, r"dilations is \[1, 2, 2\]: give different positive ones"),
        ({"dilations": (0, 1)}, r"dilations is \[0, 1\]: give different positive ones"),
        ({"dilations": (1, 2.5)}, "dilations is 2.5: it must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
