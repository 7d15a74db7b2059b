"""The step that networks are made of: convolution, batch norm, ReLU."""

from torch import nn


def convolution(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Return a convolution with batch norm and ReLU; zero padding, which keeps H and W, or their 1/stride."""
    padding = dilation * (kernel_size - 1) // 2
    return nn.Sequential(
        # No bias: batch norm subtracts it again.
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
