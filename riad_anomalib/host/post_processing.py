"""anomalib's post-processor, with no picture on the edge of the threshold and no verdict where there is none."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import AnomalibMetric, F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from riad_anomalib import false_alarms as statistics
from riad_anomalib.false_alarms import Promise

from . import held_out
from .thinning import thinned

logger = logging.getLogger(__name__)
_warn = rank_zero_only(logger.warning)  # what is less than a warning, anomalib's command does not show

DEFAULT_RATE = 0.01
"""Rate of false alarms where only good pictures are there to find a threshold, and nobody named one."""
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


class _PixelsBetweenScores(_BetweenScores):
    """The same of maps, large ones thinned out: it keeps all pixels of all pictures."""

    def update(self, batch: Batch[Any], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        """Take a batch."""
        super().update(thinned(batch), *args, **kwargs)


class _Scores(Metric):
    """The scores of all pictures and what they are, the same in all processes; of maps, their highest values."""

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Take a batch: ``(N,)`` or maps, ``(N, ...)``, and whether they are anomalous, ``(N,)``."""
        self.scores.append(scores.flatten(1).amax(dim=1) if scores.ndim > 1 else scores)
        self.labels.append(labels.bool())

    def compute(self) -> tuple[list[float], bool]:
        """Return the scores of good pictures, and whether there are others."""
        if len(self.scores) == 0:  # a list of batches or, gathered from all processes, one tensor
            return [], False
        labels = dim_zero_cat(self.labels)
        return dim_zero_cat(self.scores)[~labels].tolist(), bool(labels.any())


class _PictureScores(AnomalibMetric, _Scores):  # type: ignore[misc]  # as anomalib makes its metrics
    """The same of anomalib's batches."""


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


def check_has_validation(post_processor: Any) -> None:  # noqa: ANN401
    """Refuse to train at a rate of false alarms without a validation.

    Raises:
        ValueError: If a rate was asked for.
    """
    if (rate := getattr(post_processor, "false_alarms", None)) is not None:
        msg = (
            f"false_alarms is {rate}, and there is no validation to find its threshold (val_split_mode none): "
            "--data.val_split_mode from_train --data.val_split_ratio 0.2 holds out good pictures"
        )
        raise ValueError(msg)


def set_rate(post_processor: Any, rate: Any) -> None:  # noqa: ANN401
    """Let a post-processor find thresholds at a rate of false alarms; where there is none, nothing is to be found.

    Raises:
        ValueError: If it is no rate, or the post-processor knows none.
    """
    rate = statistics.check_rate("false_alarms", rate)
    if post_processor is None:
        return
    if not isinstance(post_processor, VerdictPostProcessor):
        msg = (
            f"false_alarms is {rate}, of which {type(post_processor).__name__} knows nothing: leave the post-processor "
            "out, or take riad_anomalib.VerdictPostProcessor"
        )
        raise ValueError(msg)
    post_processor.false_alarms = rate


class VerdictPostProcessor(PostProcessor):
    """anomalib's post-processor with one verdict on a picture everywhere, and none where there is no threshold.

    It finds thresholds from good pictures alone, too: at a rate of false alarms (:mod:`riad_anomalib.false_alarms`),
    which is that of pictures above the image threshold, and that of pictures with any pixel above the pixel threshold.
    Scores are then normalised by what good pictures differ by: a typical one has 0.25, the threshold is 0.5, and what
    lies as far above it has 0.75; nothing is cut off, because no validation has shown how high defects score.

    Args:
        enable_normalization: As anomalib's, which this and the arguments below are.
        enable_thresholding: Whether there are verdicts.
        enable_threshold_matching: Whether an image threshold takes the place of a pixel threshold that is missing.
        image_sensitivity: Image threshold of normalised scores, subtracted from 1.
        pixel_sensitivity: The same of pixels.
        false_alarms: Rate of false alarms in (0, 1) that thresholds are found at. None: the best F1 score where the
            validation has defective pictures, and 0.01 where it has none.
    """

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        false_alarms: float | None = None,
    ) -> None:
        super().__init__(
            enable_normalization, enable_thresholding, enable_threshold_matching, image_sensitivity, pixel_sensitivity
        )
        self.false_alarms = None if false_alarms is None else statistics.check_rate("false_alarms", false_alarms)
        self.has_open_scale = False
        """Whether scores are normalised without an upper end."""
        self.promised: dict[str, Any] | None = None
        """What :class:`Promise` of the image threshold holds, as a checkpoint does; None of one of the best F1."""
        # In lists, or they would be parts of this module.
        self._evaluator: list[Any] = []
        self._shelved: list[Any] = []
        self._alarms: list[Tensor] | None = None
        self._image_threshold_metric = _BetweenScores(fields=["pred_score", "gt_label"], strict=False)
        self._pixel_threshold_metric = _PixelsBetweenScores(fields=["anomaly_map", "gt_mask"], strict=False)
        self._image_scores = _PictureScores(fields=["pred_score", "gt_label"], strict=False)
        self._pixel_scores = _PictureScores(fields=["anomaly_map", "gt_label"], strict=False)

    @property
    def promise(self) -> Promise | None:
        """What the image threshold promises, if good pictures found it."""
        return None if self.promised is None else Promise(**self.promised)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        # Not the rate: it is the model's argument, and one that is given anew holds for the next validation.
        return (*super()._checkpoint_config_keys, "has_open_scale", "promised")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Take over a checkpoint's configuration, anomalib's own too."""
        super().load_checkpoint_config({"has_open_scale": False, "promised": None} | config)

    def on_validation_batch_end(  # type: ignore[override]  # as anomalib's
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch[Any],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take the scores of a batch."""
        super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        if self.enable_thresholding:
            self._image_scores.update(outputs)
            self._pixel_scores.update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find thresholds and normalisation."""
        good, has_anomalous = self._image_scores.compute() if self._image_scores.update_called else ([], False)
        peaks, _ = self._pixel_scores.compute() if self._pixel_scores.update_called else ([], False)
        self._image_scores.reset()
        self._pixel_scores.reset()
        by_rate = bool(good) and (self.false_alarms is not None or not has_anomalous)
        if by_rate:
            self._image_threshold_metric.reset()  # it would warn of what is meant
            self._pixel_threshold_metric.reset()
        super().on_validation_epoch_end(trainer, pl_module)
        if good or has_anomalous:
            self.has_open_scale, self.promised = False, None
        if by_rate:
            self._find_at_rate(good, peaks, has_anomalous)

    def _find_at_rate(self, good: Sequence[float], peaks: Sequence[float], has_anomalous: bool) -> None:
        """Find thresholds at the rate of false alarms.

        Args:
            good: Scores of good pictures.
            peaks: The highest values of their maps.
            has_anomalous: Whether the validation has shown how high anomalous ones score.
        """
        rate = DEFAULT_RATE if self.false_alarms is None else self.false_alarms
        try:
            image, promise = statistics.threshold(good, rate)
        except ValueError as error:
            _warn("No threshold: %s.", error)
            self._image_threshold.fill_(torch.nan)
            self._pixel_threshold.fill_(torch.nan)  # or it would take the place of the other
            return
        try:
            pixel, _ = statistics.threshold(peaks, rate)
        except ValueError:  # maps that all reach the same value, perhaps the highest that there is
            pixel = max(peaks) + statistics.MARGIN
        self._image_threshold.fill_(image)
        self._pixel_threshold.fill_(pixel)
        self.promised = asdict(promise)
        _warn("The threshold is from %s.", promise)
        if self.enable_normalization and not has_anomalous:
            self.has_open_scale = True
            # Of a map the quietest pixel gets 0.1: colours are then much as on anomalib's scale.
            pixel_scale = (pixel - min(self.pixel_min.item(), *peaks)) / 4
            for threshold, scale, low, high in (
                (image, statistics.spread(good, image), self.image_min, self.image_max),
                (pixel, pixel_scale or 1.0, self.pixel_min, self.pixel_max),
            ):
                low.fill_(threshold - scale)
                high.fill_(threshold + scale)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Say that there are no verdicts where there are none, and ask no metric for what cannot be measured."""
        self._restore_metrics()
        self._evaluator = [pl_module.evaluator]
        if not self._can_judge():
            self._shelve_metrics("pred_label", "pred_mask")
        if held_out.is_all_good(trainer.test_dataloaders):  # AUROC and F1 would be 0
            self._shelve_metrics("gt_label", "gt_mask")
            self._alarms = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that there are no verdicts where there are none."""
        del trainer, pl_module
        self._can_judge()

    def on_test_batch_end(  # type: ignore[override]  # as anomalib's
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch[Any],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Judge a batch."""
        super().on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        if self._alarms is not None and outputs.pred_label is not None:
            self._alarms.append(outputs.pred_label.float())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rate of false alarms where nothing else can be told."""
        del trainer
        if self._alarms:
            pl_module.log("image_false_alarms", torch.cat(self._alarms).mean(), sync_dist=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the metrics back."""
        del trainer, pl_module
        self._restore_metrics()

    def _can_judge(self) -> bool:
        why = without_thresholds(self)
        if why:
            _warn("No verdicts, only scores and maps, because there is no threshold: %s. %s.", why, WHAT_TO_DO)
        return not why

    def _shelve_metrics(self, *fields: str) -> None:
        """Take the test metrics of these fields out of the evaluator, which would fail or say what is not so."""
        (evaluator,) = self._evaluator
        kept: list[Any] = []
        for metric in getattr(evaluator, "test_metrics", ()):
            (self._shelved if any(field in metric.fields for field in fields) else kept).append(metric)
        if self._shelved:
            evaluator.test_metrics = nn.ModuleList(kept)

    def _restore_metrics(self) -> None:
        for evaluator in self._evaluator:
            if self._shelved:
                evaluator.test_metrics.extend(self._shelved)
        self._evaluator, self._shelved, self._alarms = [], [], None

    def _normalize(  # type: ignore[override]  # anomalib calls it on the instance
        self, preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor
    ) -> Tensor | None:
        """Normalise as anomalib does, or with no upper end: as steep at the threshold, and ever less beyond."""
        if preds is None or not self.has_open_scale:
            return super()._normalize(preds, norm_min, norm_max, threshold)
        distance = (preds - threshold) / (norm_max - norm_min)
        return distance / (1 + 2 * distance.abs()) + 0.5

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
