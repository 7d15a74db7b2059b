"""How an image differs from what the network made of it, and the image's score ([SSAE] Secs. 3.1 and 4.1)."""

from collections.abc import Callable

from torch import Tensor

from riad_anomalib.components.similarity import squared_difference, ssim_difference
from riad_anomalib.components.smoothing import anomaly_score, mean_score

# CHOICE [SSAE] Sec. 4.1: how SSIM becomes a distance is left open; half of 1 - SSIM is in [0, 1].
SCORE_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": squared_difference,
    "ssim": ssim_difference,
}
"""Difference maps by the name that ``score_function`` takes."""

# CHOICE [SSAE] Sec. 3.1: the paper's score is the sum over pixels; the mean ranks alike, whatever the size, in [0, 1].
IMAGE_SCORES: dict[str, Callable[..., Tensor]] = {"mean": mean_score, "max": anomaly_score}
"""Scores of an anomaly map by the name that ``image_score`` takes."""
