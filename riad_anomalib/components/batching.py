"""A network over many copies of an image, or over one that is too large for it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from riad_anomalib.strips import OVERLAP, strips

# Values of one full-size feature map, 256 MiB in float32, that one network call may have. At 256x256 and width 64 that
# is 16 masked copies: enough to fill a GPU, and an image of RIAD (12 copies) stays one call.
_MAX_FEATURE_VALUES = 2**26
# On a CPU smaller parts, which stay nearer to the caches, are faster.
_MAX_FEATURE_VALUES_CPU = 2**22

_LARGEST_MAPS = 4
"""Full-size feature maps, in float32, that a network holds at once: a convolution's two, and as much again."""


def in_parts(network: Callable[..., Tensor], batch: Tensor, width: int, *others: Tensor) -> Tensor:
    """Run a network on a batch in equal parts where the whole would take too much memory; not for training.

    Args:
        network: Network without a memory of the batch: batch norm in evaluation mode.
        batch: Batch, ``(N, C, H, W)``.
        width: Channels of the network's largest feature map, of full size.
        others: What else the network takes of each image, ``(N, ...)``.

    Returns:
        What the network makes of the batch.
    """
    if torch.compiler.is_exporting():
        return network(batch, *others)  # an exported graph cannot count images of a dynamic batch
    values = batch.shape[0] * width * batch.shape[-2] * batch.shape[-1]
    most = _MAX_FEATURE_VALUES_CPU if batch.device.type == "cpu" else _MAX_FEATURE_VALUES
    number = math.ceil(values / most)
    parts = zip(*(tensor.chunk(number) for tensor in (batch, *others)), strict=True)
    return torch.cat([network(*part) for part in parts])


def rows_in(memory: int, width: int, columns: int) -> int:
    """Return how many rows of an image a network may see at once.

    Args:
        memory: Budget in MiB.
        width: Channels of the network's largest feature map, of full size.
        columns: Columns of the image.
    """
    return memory * 2**20 // (_LARGEST_MAPS * 4 * width * columns)


def in_strips(
    network: Callable[[Tensor], Tensor], image: Tensor, rows: int, multiple: int, overlap: int = OVERLAP
) -> Tensor:
    """Run a network on strips of images where the whole would take too much memory; not for training.

    Args:
        network: Fully convolutional network in evaluation mode.
        image: Batch, ``(N, C, H, W)``.
        rows: Rows that it may see at once.
        multiple: What the network's sides are multiples of.
        overlap: Rows beside a cut that are seen and not kept, at least.

    Returns:
        What the network makes of the batch, but for a little beside the cuts, see :data:`riad_anomalib.strips.OVERLAP`.

    Raises:
        ValueError: If strips would be too narrow.
    """
    if torch.compiler.is_exporting():
        return network(image)  # an exported graph is cut from outside
    rows = rows // multiple * multiple
    laid = strips(image.shape[-2], rows, multiple, overlap)
    made = [network(image[..., strip.start : strip.stop, :]) for strip in laid]
    kept = [part[..., s.first - s.start : s.last - s.start, :] for part, s in zip(made, laid, strict=True)]
    return torch.cat(kept, dim=-2)
