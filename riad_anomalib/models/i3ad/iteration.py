"""The iteration: remove what still differs, paint it again, compare again ([I3AD] Secs. 2.2 to 2.5)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from riad_anomalib.components.masking import paste, reassemble
from riad_anomalib.components.similarity import ssim_difference

Painter = Callable[[Tensor, Tensor], Tensor]
"""Any inpainting network: from images ``(N, C, H, W)`` and what is removed ``(N, 1, H, W)`` to painted images."""


class Round(NamedTuple):
    """What a round of the iteration removed, and what it made."""

    removed: Tensor
    """True where pixels were painted, ``(N, 1, H, W)``."""
    reconstruction: Tensor
    """The image with what was painted there, ``(N, C, H, W)``."""


def iterate(painter: Painter, image: Tensor, boards: Tensor, threshold: float | Tensor, iterations: int) -> list[Round]:
    """Paint everything from its surroundings, then again and again what still differs ([I3AD] Secs. 2.3 and 2.4).

    The first round removes the squares of each board in turn, and takes every pixel from the pass that it was removed
    in. Every further one removes where image and reconstruction differ by the threshold or more, so that normal pixels
    come back as context.

    Args:
        painter: The network.
        image: Batch in [0, 1], ``(N, C, H, W)``.
        boards: True where each of S first masks removes pixels, every pixel once, ``(S, 1, H, W)``.
        threshold: Difference u in [0, 1], of which half of 1 - SSIM is removed.
        iterations: Number of rounds, at least 1.

    Returns:
        The rounds; the first removed everything, if not at once.
    """
    num_images, num_boards = image.shape[0], boards.shape[0]
    images = image.unsqueeze(1).expand(-1, num_boards, -1, -1, -1).flatten(0, 1)  # (N*S, C, H, W)
    reconstruction = reassemble(painter(images, boards.repeat(num_images, 1, 1, 1)), boards)
    rounds = [Round(torch.ones_like(image[:, :1], dtype=torch.bool), reconstruction)]
    # DEVIATES [I3AD] Sec. 2.5: no early stop, which an exported graph would have to decide for each image; an image
    # whose mask has come to rest stays as it is.
    for _ in range(iterations - 1):
        removed = ssim_difference(image, reconstruction) >= threshold
        # DEVIATES [I3AD] Sec. 2.3: what is visible is always the original, where the paper's formula hands the last
        # reconstruction on: its errors would stay and creep.
        reconstruction = paste(image, painter(image, removed), removed)
        rounds.append(Round(removed, reconstruction))
    return rounds
