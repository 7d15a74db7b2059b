"""What inpainting networks see holes with: gated convolution and self-attention ([I3AD] Sec. 2.2)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

# CHOICE [I3AD] Sec. 2.2: initial weights are left open. A gate halves what passes, and several layers in a row would
# leave nothing of it. With weights of this standard deviation, over the root of a filter's inputs, the mean square of
# the features stays the same from layer to layer: 1 / sqrt(E[ELU(a)^2] E[sigmoid(g)^2]) for independent standard normal
# a and g.
GAIN = 2.2989


class GatedConvolution(nn.Module):
    """A convolution whose output is let through, or not, by another: ELU(a) * sigmoid(g) (Yu et al. 2019).

    Zero padding, which keeps H and W, or their 1/stride.

    Args:
        in_channels: Channels of the input.
        width: Filters of both convolutions together, even: half of them are features, half of them gates.
        kernel_size: Side length of the filters, odd.
        stride: Step from one output pixel to the next.
        dilation: Step from one weight of a filter to the next.

    Example:
        >>> GatedConvolution(4, width=6, stride=2)(torch.rand(2, 4, 8, 12)).shape
        torch.Size([2, 3, 4, 6])
    """

    def __init__(self, in_channels: int, width: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.convolution = nn.Conv2d(in_channels, width, kernel_size, stride, padding, dilation)
        nn.init.normal_(self.convolution.weight, std=GAIN / math.sqrt(in_channels * kernel_size**2))
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, image: Tensor) -> Tensor:
        """Return the features that pass, ``(N, width / 2, H, W)``, or of 1/stride the sides."""
        features, gate = self.convolution(image).chunk(2, dim=1)
        return F.elu(features) * torch.sigmoid(gate)


class SelfAttention(nn.Module):
    """Add to each place what places like it have, wherever they are: x + gamma * softmax(q k^T) v (Zhang et al. 2019).

    Convention: the softmax is over all places that a place looks at, dot products are not scaled, and gamma begins
    at 0: an untrained layer changes nothing.

    Args:
        channels: Channels of the features; queries and keys have an eighth of them, at least one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, max(channels // 8, 1), 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, ``(N, C, H, W)``."""
        query, key, value = (layer(features).flatten(2) for layer in (self.query, self.key, self.value))  # (N, C, H*W)
        attention = torch.softmax(query.mT @ key, dim=-1).to(value.dtype)  # (N, H*W, H*W)
        seen = (value @ attention.mT).unflatten(2, features.shape[-2:])
        attended: Tensor = features + self.gamma * seen
        return attended
