"""The discriminator: which patches of an image are painted ([I3AD] Sec. 2.2, SN-PatchGAN of Yu et al. 2019)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """Six spectrally normalised convolutions of stride 2; each value that is left judges the patch that it sees.

    Args:
        channels: Channels C of the image.
        base_width: The generator's filters b; the layers here have 4/3 b of them, twice as many, and four times as many
            from the third on.
    """

    def __init__(self, channels: int, base_width: int) -> None:
        super().__init__()
        first = 4 * base_width // 3
        widths = [channels + 1, first, 2 * first, 4 * first, 4 * first, 4 * first, 4 * first]
        layers: list[nn.Module] = []
        for before, width in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(before, width, 5, stride=2, padding=2)), nn.LeakyReLU(0.2)]
        # CHOICE [I3AD] Sec. 2.2: no convolution to one channel follows, as in Yu et al.: every feature is a judgement.
        self.layers = nn.Sequential(*layers[:-1])
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, removed: Tensor) -> Tensor:
        """Judge images, original or with something pasted in.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.
            removed: True where something was painted, or would have been, ``(N, 1, H, W)``.

        Returns:
            Judgements, high for what looks original, float32, ``(N, D, H/64, W/64)`` rounded up.
        """
        judged: Tensor = self.layers(torch.cat([image, removed.to(image.dtype)], dim=1))
        return judged.float()
