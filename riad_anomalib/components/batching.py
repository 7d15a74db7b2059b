"""A network over many copies of an image."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Values of one full-size feature map, 256 MiB in float32, that one network call may have. At 256x256 and width 64 that
# is 16 masked copies: enough to fill a GPU, and an image of RIAD (12 copies) stays one call.
_MAX_FEATURE_VALUES = 2**26
# On a CPU smaller parts, which stay nearer to the caches, are faster.
_MAX_FEATURE_VALUES_CPU = 2**22


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
