"""The step that networks are made of: convolution, batch norm, ReLU."""

from torch import nn


def convolution(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with zero padding, batch norm and ReLU."""
    return nn.Sequential(
        # No bias: batch norm subtracts it again.
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
