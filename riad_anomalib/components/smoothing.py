"""Smoothing of anomaly maps and the image's score ([RIAD] Eqs. 8 and 10, [SSAE] Eq. 3)."""

from numbers import Integral

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .arguments import finite_number


def check_smoothing_size(smoothing_size: float) -> None:
    """Refuse what is neither an odd number of pixels nor a share of the image.

    Raises:
        ValueError: If it is anything else.
    """
    is_odd = isinstance(smoothing_size, Integral) and smoothing_size % 2 == 1
    if finite_number("smoothing_size", smoothing_size) <= 0 or (smoothing_size >= 1 and not is_odd):
        msg = (
            f"smoothing_size is {smoothing_size}: it must be a positive odd number of pixels, "
            "or a share of the image's shorter side between 0 and 1"
        )
        raise ValueError(msg)


def window_size(smoothing_size: float, image_size: tuple[int, int]) -> int:
    """Return the side length of the mean filter in pixels, odd.

    Args:
        smoothing_size: An odd number of pixels, or a share of the image's shorter side in (0, 1).
        image_size: Height and width in pixels.

    Example:
        >>> window_size(21, (256, 256)), window_size(0.08, (256, 256)), window_size(0.08, (128, 192))
        (21, 21, 11)
    """
    if isinstance(smoothing_size, Integral):
        return int(smoothing_size)
    return 2 * round((smoothing_size * min(image_size) - 1) / 2) + 1


def mean_filter(values_map: Tensor, size: int, repeats: int = 1) -> Tensor:
    """Average each pixel's surroundings (f_{s_f x s_f} of [RIAD] Eq. 8), again and again (G_k^n of [SSAE] Eq. 3).

    Convention: at the border the mean is over the part of the window that lies on the image, so that a uniform map
    stays uniform. Zero padding would darken the border, reflection would count pixels twice.

    Args:
        values_map: Batch of maps, ``(N, C, H, W)``, each by itself.
        size: Side length of the window in pixels, odd.
        repeats: How often, n; 0 leaves the maps as they are.

    Returns:
        Smoothed maps, ``(N, C, H, W)``.
    """
    # CHOICE [RIAD] Eq. 8: the border is left open; only pixels of the image count.
    # The paper filters each region size's similarity and then subtracts from 1. All of that is linear: filtering the
    # mean dissimilarity gives the same map for a K-th of the work, and an exact 0 for a perfect reconstruction.
    # Two passes of `size` values instead of one of `size` squared: a square window's mean is separable.
    pad = size // 2
    for _ in range(repeats):
        rows = F.avg_pool2d(values_map, (1, size), stride=1, padding=(0, pad), count_include_pad=False)
        values_map = F.avg_pool2d(rows, (size, 1), stride=1, padding=(pad, 0), count_include_pad=False)
    return values_map


def anomaly_score(values_map: Tensor, inside: Tensor | None = None) -> Tensor:
    """Return each image's score, the maximum of its anomaly map ([RIAD] Eq. 10).

    Args:
        values_map: Anomaly map, ``(N, 1, H, W)``, at least 0, and 0 where nothing counts.
        inside: What counts, of no use here.

    Returns:
        Score, ``(N,)``.
    """
    del inside
    return values_map.amax(dim=(1, 2, 3))


def mean_score(values_map: Tensor, inside: Tensor | None = None) -> Tensor:
    """Return each image's score as the mean of its anomaly map: [SSAE] Sec. 3.1's sum over the number of pixels.

    Args:
        values_map: Anomaly map, ``(N, 1, H, W)``, 0 where nothing counts.
        inside: What counts, 1 or 0, ``(1, 1, H, W)``; everything without.

    Returns:
        Score, ``(N,)``.
    """
    mean = values_map.mean(dim=(1, 2, 3))
    return mean if inside is None else mean / inside.mean()
