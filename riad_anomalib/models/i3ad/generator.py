"""The generator: a coarse-to-fine network that paints holes ([I3AD] Sec. 2.2, after Yu et al. 2019)."""

import torch
from torch import Tensor, nn

from riad_anomalib.components.arguments import whole_number
from riad_anomalib.components.gated import GatedConvolution, SelfAttention
from riad_anomalib.components.masking import paste

STRIDE = 4
"""Pixels that the network's two halvings reduce to one: height and width must be multiples of it."""
LEAST_SIDE = 8
"""SSIM's window does not fit into smaller images."""


def check_image_size(image_size: tuple[int, int]) -> None:
    """Refuse images that the network cannot take.

    Raises:
        ValueError: If height or width is no multiple of 4, or less than 8.
    """
    height, width = image_size
    if any(side < LEAST_SIDE or side % STRIDE for side in image_size):
        below, above = (
            "x".join(str(max((side + shift) // STRIDE * STRIDE, LEAST_SIDE)) for side in image_size)
            for shift in (0, STRIDE - 1)
        )
        near = " or ".join(dict.fromkeys((below, above)))
        msg = f"image size {height}x{width}: sides must be multiples of {STRIDE}, at least {LEAST_SIDE}: set {near}"
        raise ValueError(msg)


class Stage(nn.Sequential):
    """One of the two networks: down to a quarter of the side, dilated convolutions there, and up again.

    Args:
        channels: Channels C of the image.
        widths: Filters of the first four convolutions; those on a quarter of the side have as many as ``base_width``
            times four.
        base_width: Filters b of the last full-size convolution but one.
        attention: Whether self-attention follows the dilated convolutions.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int], base_width: int, attention: bool) -> None:
        b, (first, second, third, fourth) = base_width, widths
        # A gated convolution hands on half as many channels as it has filters.
        super().__init__(
            GatedConvolution(channels + 1, first, kernel_size=5),
            GatedConvolution(first // 2, second, stride=2),
            GatedConvolution(second // 2, third),
            GatedConvolution(third // 2, fourth, stride=2),
            GatedConvolution(fourth // 2, 4 * b),
            GatedConvolution(2 * b, 4 * b),
            *(GatedConvolution(2 * b, 4 * b, dilation=dilation) for dilation in (2, 4, 8, 16)),
            # CHOICE [I3AD] Sec. 2.2: attention stands in the fine stage's only branch; Yu et al. have one beside it.
            *([SelfAttention(2 * b)] if attention else []),
            GatedConvolution(2 * b, 4 * b),
            GatedConvolution(2 * b, 4 * b),
            nn.Upsample(scale_factor=2),
            GatedConvolution(2 * b, 2 * b),
            GatedConvolution(b, 2 * b),
            nn.Upsample(scale_factor=2),
            GatedConvolution(b, b),
            GatedConvolution(b // 2, b // 2),
            nn.Conv2d(b // 4, channels, 3, padding=1),
        )


class Generator(nn.Module):
    """Paint what was removed from an image, first roughly and then again over that.

    Args:
        channels: Channels C of the image.
        base_width: Filters b of the first gated convolution, a multiple of 4.
        attention: Whether the fine stage looks for places alike in the whole image.
        coarse: Whether there is a coarse stage.

    Raises:
        ValueError: If the width is no multiple of 4.

    Example:
        >>> generator = Generator(channels=3, base_width=4, attention=True, coarse=True)
        >>> removed = torch.rand(2, 1, 32, 48) < 0.5
        >>> [painted.shape for painted in generator(torch.rand(2, 3, 32, 48), removed)]
        [torch.Size([2, 3, 32, 48]), torch.Size([2, 3, 32, 48])]
    """

    def __init__(self, channels: int, base_width: int, *, attention: bool, coarse: bool) -> None:
        super().__init__()
        b = base_width
        if whole_number("base_width", b) < 4 or b % 4:  # noqa: PLR2004
            msg = f"base_width is {b}: it must be a positive multiple of 4, Yu et al. have 48"
            raise ValueError(msg)
        stages = [Stage(channels, (b, b, 2 * b, 2 * b), b, attention)]
        if coarse:
            stages.insert(0, Stage(channels, (b, 2 * b, 2 * b, 4 * b), b, attention=False))
        self.stages = nn.ModuleList(stages)
        # Weights in this layout put the activations in it too; the results are the same, CPUs and GPUs are faster.
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, removed: Tensor) -> tuple[Tensor, ...]:
        """Paint images.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``; what was removed is not looked at.
            removed: True where pixels are to be painted, ``(N, 1, H, W)``; all of them may be.

        Returns:
            What each stage made of the whole image, the last one's in the end, in [0, 1], float32 also under mixed
            precision, each ``(N, C, H, W)``.
        """
        visible = (~removed).to(image.dtype)
        shown = image.masked_fill(removed, 0.0)
        made: list[Tensor] = []
        for stage in self.stages:
            features = stage(torch.cat([shown, visible], dim=1))
            # bfloat16 has no grey levels finer than 1/256 near white, hence the sigmoid in float32.
            made.append(torch.sigmoid(features.float()))
            shown = paste(image, made[-1].to(image.dtype), removed)
        return tuple(made)
