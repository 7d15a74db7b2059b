"""From similarity to the anomaly map and the image's score ([RIAD] Sec. 3.4, Eqs. 8-10, Alg. 3)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from riad_anomalib.components.similarity import msgms_grey_map, msgms_map, ssim_map

SCORE_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "msgms": msgms_map,
    "msgms_grey": msgms_grey_map,
    "ssim": ssim_map,
}
"""Similarity maps by the name that ``score_function`` takes."""

_TINY = 1e-12


def dissimilarity_map(image: Tensor, reconstructions: Tensor, score_function: str) -> Tensor:
    """Return the mean over partitions of 1 - similarity, the anomaly map before smoothing ([RIAD] Eqs. 8 and 9).

    Convention: in [0, 1] for MSGMS, in [0, 2] for ``"ssim"``; 0 where the reconstruction is perfect.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstructions: One reconstruction per region size and partition of it, ``(N, K, C, H, W)``.
        score_function: Name of the similarity, a key of :data:`SCORE_FUNCTIONS`.

    Returns:
        Dissimilarity, ``(N, 1, H, W)``.
    """
    images = image.unsqueeze(1).expand_as(reconstructions).flatten(0, 1)  # (N*K, C, H, W)
    similarity = SCORE_FUNCTIONS[score_function](images, reconstructions.flatten(0, 1))  # (N*K, 1, H, W)
    dissimilarity: Tensor = (1 - similarity).unflatten(0, (-1, reconstructions.shape[1]))  # (N, K, 1, H, W)
    return dissimilarity.mean(dim=1)  # (N, 1, H, W)


def calibrate(values_map: Tensor, normal_mean: Tensor, normal_std: Tensor) -> Tensor:
    """Weigh what exceeds the mean of normal images by how little normal images vary there.

    max(0, d - mu) * s / (sigma + s), with mu and sigma the mean and standard deviation of d over normal images at that
    pixel and s the mean of sigma over all pixels: a z-score whose denominator is kept from 0, in the units of d. Not
    in the paper; README, *Calibration*, says what it gains.

    Convention: never above d; 0 where d does not exceed the normal mean; d - mu where normal images do not vary at all.

    Args:
        values_map: Dissimilarity d, ``(N, 1, H, W)``.
        normal_mean: Mean of d over normal images, ``(1, H, W)``.
        normal_std: Standard deviation of d over normal images, ``(1, H, W)``.

    Returns:
        Calibrated dissimilarity, ``(N, 1, H, W)``.
    """
    # Where no normal image varies at all, s is 0: the guard makes that weight 1 and changes no other.
    typical_std = normal_std.mean().clamp(min=_TINY)
    return (values_map - normal_mean).clamp(min=0) * (typical_std / (normal_std + typical_std))


def mean_filter(values_map: Tensor, size: int) -> Tensor:
    """Average each pixel's surroundings (f_{s_f x s_f} of [RIAD] Eq. 8).

    Convention: at the border the mean is over the part of the window that lies on the image, so that a uniform map
    stays uniform. Zero padding would darken the border, reflection would count pixels twice.

    Args:
        values_map: Batch of maps, ``(N, 1, H, W)``.
        size: Side length of the window in pixels, odd.

    Returns:
        Smoothed maps, ``(N, 1, H, W)``.
    """
    # CHOICE [RIAD] Eq. 8: the border is left open; only pixels of the image count.
    # The paper filters each region size's similarity and then subtracts from 1. All of that is linear: filtering the
    # mean dissimilarity gives the same map for a K-th of the work, and an exact 0 for a perfect reconstruction.
    # Two passes of `size` values instead of one of `size` squared: a square window's mean is separable.
    pad = size // 2
    rows = F.avg_pool2d(values_map, (1, size), stride=1, padding=(0, pad), count_include_pad=False)
    return F.avg_pool2d(rows, (size, 1), stride=1, padding=(pad, 0), count_include_pad=False)


def anomaly_score(values_map: Tensor) -> Tensor:
    """Return each image's score, the maximum of its anomaly map ([RIAD] Eq. 10).

    Args:
        values_map: Anomaly map, ``(N, 1, H, W)``.

    Returns:
        Score, ``(N,)``.
    """
    return values_map.amax(dim=(1, 2, 3))
