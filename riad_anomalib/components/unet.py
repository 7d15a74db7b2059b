"""The inpainting network: a U-Net ([RIAD] Sec. 3.2, Fig. 4)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .arguments import whole_number
from .convolution import convolution


class InpaintingUNet(nn.Module):
    """U-Net of five levels that paints removed pixels from the visible ones ([RIAD] Fig. 4).

    Each level has two 3x3 convolutions with batch norm and ReLU. On the way down a 4x4 convolution of stride 2 stands
    in for a level's first one; on the way up a 4x4 transposed convolution of stride 2 leads to the next level.

    Args:
        channels: Channels C of the image.
        base_width: Channels of the first level; the levels have 1, 2, 4, 8 and 8 times as many.
        skip_connections: Whether a decoder level also sees the encoder level of its size; False is RIAD_ns (Table 6).

    Example:
        >>> network = InpaintingUNet(channels=3, base_width=4, skip_connections=True)
        >>> network(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """

    STRIDE = 16
    """Pixels that the four halvings reduce to one: height and width must be multiples of it."""

    def __init__(self, channels: int, base_width: int, skip_connections: bool) -> None:
        super().__init__()
        if whole_number("base_width", base_width) < 1:
            msg = f"base_width is {base_width}: it must be at least 1, the paper's is 64"
            raise ValueError(msg)
        self.skip_connections = skip_connections
        widths = [base_width * factor for factor in (1, 2, 4, 8, 8)]
        self.encoder = nn.ModuleList(
            [nn.Sequential(convolution(channels, widths[0]), convolution(widths[0], widths[0]))]
        )
        self.upsamplers = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for above, below in pairwise(widths):
            self.encoder.append(nn.Sequential(convolution(above, below, 4, stride=2), convolution(below, below)))
        for below, above in pairwise(reversed(widths)):
            # CHOICE [RIAD] Fig. 4: norm and activation follow the two convolutions of a level, not the upsampling.
            self.upsamplers.append(nn.ConvTranspose2d(below, above, 4, stride=2, padding=1))
            seen = 2 * above if skip_connections else above
            self.decoder.append(nn.Sequential(convolution(seen, above), convolution(above, above)))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        # Weights in this layout put the activations in it too; the results are the same, CPUs and GPUs are faster.
        self.to(memory_format=torch.channels_last)

    def forward(self, masked: Tensor) -> Tensor:
        """Inpaint masked copies.

        Args:
            masked: Batch in [0, 1] with removed pixels at zero, ``(N, C, H, W)``.

        Returns:
            Inpainted batch in [0, 1], float32 also under mixed precision, ``(N, C, H, W)``.
        """
        features, skips = masked, []
        for level in self.encoder:
            features = level(features)
            skips.append(features)
        skips.pop()  # the lowest level leads on by itself
        for upsample, level in zip(self.upsamplers, self.decoder, strict=True):
            features = upsample(features)
            skip = skips.pop()
            features = level(torch.cat([features, skip], dim=1) if self.skip_connections else features)
        # bfloat16 has no grey levels finer than 1/256 near white, hence the sigmoid in float32.
        return torch.sigmoid(self.head(features).float())
