"""The filtering network: an auto-encoder with stacked dilated convolutions and no skips ([SSAE] Sec. 3.3, Table 1)."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .arguments import whole_number
from .convolution import convolution

logger = logging.getLogger(__name__)


STRIDE = 8
"""Pixels that the network's three max-pools reduce to one: height and width must be multiples of it."""


def check_image_size(image_size: tuple[int, int], dilations: Sequence[int], name: str = "image_size") -> None:
    """Refuse images, or crops of them, that the network cannot take, and warn of dilations too large for them.

    Raises:
        ValueError: If height or width is no multiple of 8.
    """
    height, width = image_size
    if any(side < STRIDE or side % STRIDE for side in image_size):
        below, above = (
            "x".join(str(max(side + shift, STRIDE) // STRIDE * STRIDE) for side in image_size)
            for shift in (0, STRIDE - 1)
        )
        near = " or ".join(dict.fromkeys((below, above)))
        what = name.replace("_", " ")
        msg = f"{what} {height}x{width} is not a multiple of {STRIDE}: set {name} to {near}"
        raise ValueError(msg)
    features = (height // STRIDE, width // STRIDE)
    if lost := [dilation for dilation in dilations if dilation >= min(features)]:
        logger.warning(
            "Dilations %s reach only padding: at %dx%d the features are %dx%d. Leave them out, or enlarge images.",
            *(lost, height, width, *features),
        )


class StackedDilatedConvolutions(nn.Module):
    """Parallel convolutions of one input with several dilations, and a 3x3 convolution over all they saw.

    Args:
        in_channels: Channels of the input.
        width: Filters of each dilation.
        kernel_size: Side length f of the dilated kernels, odd.
        dilations: Dilation of each convolution.
    """

    def __init__(self, in_channels: int, width: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        # CHOICE [SSAE] Sec. 3.3: batch norm and ReLU also follow the stack itself; the paper names them after the 3x3
        # convolution alone, and without them the two convolutions in a row are one linear map.
        # For each dilation by itself: the same numbers as after the concatenation, and runtimes fold them away.
        self.dilated = nn.ModuleList(convolution(in_channels, width, kernel_size, dilation=d) for d in dilations)
        self.mixed = convolution(width * len(dilations), width * len(dilations))
        # CHOICE [SSAE] Sec. 4.1: initial weights are left open. Beside what is drawn for them, every convolution begins
        # by handing a channel on, and batch norm (below) by shifting it to where ReLU lets most of it pass. Without
        # both, eight convolutions in a row leave a fine texture a grey blur for a long time.
        for index, dilated in enumerate(self.dilated):
            _hand_on(dilated, first_channel=index * width)
        _hand_on(self.mixed, first_channel=0)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same height and width, ``(N, width * len(dilations), H, W)``."""
        mixed: Tensor = self.mixed(torch.cat([dilated(features) for dilated in self.dilated], dim=1))
        return mixed


@torch.no_grad()
def _hand_on(convolved: nn.Module, first_channel: int) -> None:
    """Add to a convolution's weights that each channel is also taken over from the input, beginning with this one."""
    weight = next(convolved.parameters())
    out_channels, in_channels, *_, side = weight.shape
    out = torch.arange(out_channels)
    weight[out, (first_channel + out) % in_channels, side // 2, side // 2] += 1


class FilteringAutoEncoder(nn.Module):
    """Auto-encoder that reproduces what is normal and replaces what is not ([SSAE] Table 1).

    Three levels of two 3x3 convolutions and a max-pool, four blocks of stacked dilated convolutions on an eighth of the
    side, three levels of a transposed convolution and two 3x3 convolutions. There is no bottleneck: only training keeps
    it from copying.

    Args:
        channels: Channels C of the image.
        base_width: Channels b of the first level; the levels have 1, 2 and 4 times as many.
        kernel_size: Side length f of the dilated kernels, odd; 3 or 5 in the paper.
        dilations: Dilations of the parallel convolutions in every block, with b filters each.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> network = FilteringAutoEncoder(channels=3, base_width=4, kernel_size=3, dilations=(1, 2))
        >>> network(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """

    NUM_BLOCKS = 4

    def __init__(self, channels: int, base_width: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        if whole_number("base_width", base_width) < 1:
            msg = f"base_width is {base_width}: it must be at least 1, the paper's is 64"
            raise ValueError(msg)
        if whole_number("kernel_size", kernel_size) < 1 or kernel_size % 2 == 0:
            msg = f"kernel_size is {kernel_size}: it must be a positive odd number, the paper's are 3 and 5"
            raise ValueError(msg)
        dilations = [whole_number("dilations", dilation) for dilation in dilations]
        if not dilations or len(set(dilations)) < len(dilations) or min(dilations) < 1:
            msg = f"dilations is {dilations}: give different positive ones, the paper's are 1, 2, 4, 8, 16, 32"
            raise ValueError(msg)
        widths = [base_width, 2 * base_width, 4 * base_width]
        encoder: list[nn.Module] = []
        before = channels
        for width in widths:
            encoder += [convolution(before, width), convolution(width, width), nn.MaxPool2d(2)]
            before = width
        stacked = base_width * len(dilations)
        blocks: list[nn.Module] = []
        for _ in range(self.NUM_BLOCKS):
            blocks.append(StackedDilatedConvolutions(before, base_width, kernel_size, dilations))
            before = stacked
        decoder: list[nn.Module] = []
        for width in reversed(widths):
            decoder += [_upsampling(before, width), convolution(width, width), convolution(width, width)]
            before = width
        self.encoder, self.blocks, self.decoder = (nn.Sequential(*part) for part in (encoder, blocks, decoder))
        self.head = nn.Conv2d(base_width, channels, 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.bias)
        # Weights in this layout put the activations in it too; the results are the same, CPUs and GPUs are faster.
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Reconstruction in [0, 1], float32 also under mixed precision, ``(N, C, H, W)``.
        """
        features = self.head(self.decoder(self.blocks(self.encoder(image))))
        # bfloat16 has no grey levels finer than 1/256 near white, hence the sigmoid in float32.
        return torch.sigmoid(features.float())


def _upsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a transposed convolution that doubles height and width, with batch norm and ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
