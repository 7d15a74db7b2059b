"""anomalib's post-processor, with no picture on the edge of the threshold and no verdict where there is none."""

import logging
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from torch import Tensor, nn
from torchmetrics.utilities.data import dim_zero_cat

logger = logging.getLogger(__name__)

WHAT_TO_DO = (
    "Train with validation (no limit_val_batches 0, no val_split_mode none, pictures in the validation set), give a "
    "checkpoint of such a training, or call Engine.validate first"
)


def between(scores: Tensor, threshold: Tensor) -> Tensor:
    """Return a threshold of the same verdicts that none of the scores is.

    anomalib's is a score itself: that picture counts as found where the threshold is chosen, as missed where scores are
    compared, and as either after export, where the last digit differs.

    Args:
        scores: All scores that the threshold is for, ``(N,)``.
        threshold: From which on they are anomalous, itself included.

    Returns:
        The middle between the threshold and the next score below; a little below where there is none.
    """
    below = scores[scores < threshold]
    if below.numel():
        return (threshold + below.max()) / 2
    return threshold - 0.01 * (scores.max() - threshold)


class _BetweenScores(F1AdaptiveThreshold):
    """anomalib's threshold of the best F1 score, moved off the score that it is."""

    def compute(self) -> Tensor:  # type: ignore[override]  # as anomalib's
        """Return it."""
        threshold: Tensor = super().compute()
        return between(dim_zero_cat(self.preds), threshold)


def without_thresholds(post_processor: Any) -> str:  # noqa: ANN401
    """Return why a post-processor of anomalib that is to give verdicts can give none; nothing if it can."""
    if not getattr(post_processor, "enable_thresholding", False):
        return ""
    if post_processor.image_threshold.isnan():
        return "no validation has found any"
    if not post_processor.enable_normalization:
        return ""
    low, high = post_processor.image_min, post_processor.image_max
    if not (low.isfinite() and high.isfinite()):
        return f"validation scores ran from {low:g} to {high:g}"
    return "" if low < high else f"all validation scores were {low:g}, which tells nothing apart"


def warn_of_no_verdicts(post_processor: Any) -> bool:  # noqa: ANN401
    """Say before a test or a prediction that a post-processor can give no verdicts, and tell whether that is so."""
    why = without_thresholds(post_processor)
    if why:
        logger.warning("No verdicts, only scores and maps, because there is no threshold: %s. %s.", why, WHAT_TO_DO)
    return bool(why)


def shelve_verdict_metrics(evaluator: Any) -> list[Any]:  # noqa: ANN401
    """Take the metrics that need verdicts, or would end a test without them, out of an evaluator, and return them."""
    parts: dict[bool, list[Any]] = {True: [], False: []}
    for metric in getattr(evaluator, "test_metrics", ()):  # not by ==, which makes a metric of two
        parts[bool({"pred_label", "pred_mask"}.intersection(metric.fields))].append(metric)
    if parts[True]:
        evaluator.test_metrics = nn.ModuleList(parts[False])
    return parts[True]


class VerdictPostProcessor(PostProcessor):
    """anomalib's post-processor with one verdict on a picture everywhere, and none where there is no threshold.

    The arguments are those of anomalib's ``PostProcessor``, the files of which it reads and writes.
    """

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        super().__init__(
            enable_normalization, enable_thresholding, enable_threshold_matching, image_sensitivity, pixel_sensitivity
        )
        self._image_threshold_metric = _BetweenScores(fields=["pred_score", "gt_label"], strict=False)
        self._pixel_threshold_metric = _BetweenScores(fields=["anomaly_map", "gt_mask"], strict=False)

    def threshold_batch(self, batch: Batch[Any]) -> None:
        """Judge a batch, or leave it without verdicts."""
        if not without_thresholds(self):
            super().threshold_batch(batch)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalise and judge; verdicts are None where there is no threshold."""
        judged: InferenceBatch = super().forward(predictions)
        # An export is refused before it begins if there is none, and must not ask again.
        if torch.compiler.is_compiling() or not without_thresholds(self):
            return judged
        return judged._replace(pred_label=None, pred_mask=None)
