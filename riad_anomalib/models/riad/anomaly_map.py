"""From similarity to the anomaly map and the image's score ([RIAD] Sec. 3.4, Eqs. 8-10, Alg. 3)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from riad_anomalib.components.similarity import msgms_map, ssim_map

SCORE_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"msgms": msgms_map, "ssim": ssim_map}
"""Similarity maps by the name that ``score_function`` takes."""


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
    # Two passes of `size` values instead of one of `size` squared: a square window's mean is separable.
    pad = size // 2
    rows = F.avg_pool2d(values_map, (1, size), stride=1, padding=(0, pad), count_include_pad=False)
    return F.avg_pool2d(rows, (size, 1), stride=1, padding=(pad, 0), count_include_pad=False)


def anomaly_map(image: Tensor, reconstructions: Tensor, score_function: str, smoothing_size: int) -> Tensor:
    """Return the anomaly map G_A, the mean over region sizes of 1 - similarity * f ([RIAD] Eqs. 8 and 9).

    Convention: in [0, 1] for ``"msgms"``, in [0, 2] for ``"ssim"``; 0 where the reconstruction is perfect.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstructions: One reconstruction per region size, ``(N, K, C, H, W)``.
        score_function: Name of the similarity, a key of :data:`SCORE_FUNCTIONS`.
        smoothing_size: Side length s_f of the mean filter in pixels, odd.

    Returns:
        Anomaly map, ``(N, 1, H, W)``.
    """
    images = image.unsqueeze(1).expand_as(reconstructions).flatten(0, 1)  # (N*K, C, H, W)
    similarity = SCORE_FUNCTIONS[score_function](images, reconstructions.flatten(0, 1))  # (N*K, 1, H, W)
    anomaly = (1 - similarity).unflatten(0, (-1, reconstructions.shape[1])).mean(dim=1)  # (N, 1, H, W)
    # The paper filters each region size's similarity and then subtracts from 1. All of that is linear: filtering the
    # mean anomaly gives the same map for a K-th of the work, and an exact 0 for a perfect reconstruction.
    return mean_filter(anomaly, smoothing_size)


def anomaly_score(values_map: Tensor) -> Tensor:
    """Return each image's score, the maximum of its anomaly map ([RIAD] Eq. 10).

    Args:
        values_map: Anomaly map, ``(N, 1, H, W)``.

    Returns:
        Score, ``(N,)``.
    """
    return values_map.amax(dim=(1, 2, 3))
