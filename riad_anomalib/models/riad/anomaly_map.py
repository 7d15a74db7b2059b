"""From similarity to the anomaly map before smoothing ([RIAD] Sec. 3.4, Eqs. 8 and 9, Alg. 3)."""

from collections.abc import Callable

from torch import Tensor

from riad_anomalib.components.similarity import (
    absolute_difference,
    msgms_difference,
    msgms_grey_difference,
    one_minus_ssim,
)

SCORE_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "msgms": msgms_difference,
    "msgms_grey": msgms_grey_difference,
    "ssim": one_minus_ssim,
    "absolute": absolute_difference,
}
"""1 - similarity by the name that ``score_function`` takes."""


def dissimilarity_map(image: Tensor, reconstructions: Tensor, score_function: str) -> Tensor:
    """Return the mean over partitions of 1 - similarity, the anomaly map before smoothing ([RIAD] Eqs. 8 and 9).

    Convention: in [0, 1], but in [0, 2] for ``"ssim"``; 0 where the reconstruction is perfect.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstructions: One reconstruction per region size and partition of it, ``(N, K, C, H, W)``.
        score_function: Name of the similarity, a key of :data:`SCORE_FUNCTIONS`.

    Returns:
        Dissimilarity, ``(N, 1, H, W)``.
    """
    images = image.unsqueeze(1).expand_as(reconstructions).flatten(0, 1)  # (N*K, C, H, W)
    differences = SCORE_FUNCTIONS[score_function](images, reconstructions.flatten(0, 1))  # (N*K, 1, H, W)
    dissimilarity: Tensor = differences.unflatten(0, (-1, reconstructions.shape[1]))  # (N, K, 1, H, W)
    return dissimilarity.mean(dim=1)  # (N, 1, H, W)
