"""A page to look at what a test or a prediction found."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from riad_anomalib.report import Image, Report

from .post_processing import without_thresholds
from .visualizer import output_file


class ReportVisualizer(Visualizer):
    """Writes ``report/report.html`` where anomalib's own visualizer writes its ``images/``.

    The page of :mod:`riad_anomalib.deploy`: pictures, scores by sub-folder, a threshold to move; with misses, false
    alarms and outlines of the truth where the data know it. For any model of anomalib that gives a map and verdicts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._report: Report | None = None
        self._is_cropped = False

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Begin a page."""
        datamodule = getattr(trainer, "datamodule", None)
        names = [pl_module.name, getattr(datamodule, "name", None), getattr(datamodule, "category", None)]
        self._report = Report(
            Path(trainer.default_root_dir) / "report",
            f"{'Prediction' if trainer.predicting else 'Test'}: {' '.join(name for name in names if name)}",
            "python -m riad_anomalib.deploy model.xml pictures",
        )
        if promise := getattr(pl_module.post_processor, "promise", None):
            self._report.notes.append(f"The threshold is from {promise}.")
        self._is_cropped = _is_cropped(trainer, pl_module)

    on_predict_start = on_test_start

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        """Take the pictures of a batch; prediction ends here too.

        Raises:
            ValueError: If the model gives no map or no verdicts.
        """
        del outputs, args
        if self._report is None:
            return
        post_processor = pl_module.post_processor
        for item in batch:
            if item.anomaly_map is None or (item.pred_label is None and not without_thresholds(post_processor)):
                msg = (
                    f"ReportVisualizer shows maps and verdicts, and {pl_module.name} gives none: leave its "
                    "post-processor on, or use anomalib's ImageVisualizer"
                )
                raise ValueError(msg)
            path = item.image_path or f"{len(self._report.rows):06}"
            name = output_file(trainer, path, Path(), mkdir=False)
            truth = None if item.gt_label is None else bool(item.gt_label)
            verdict = None if item.pred_label is None else bool(item.pred_label)
            self._report.add(name.as_posix(), float(item.pred_score), verdict, truth)
            anomaly_map = item.anomaly_map.float().squeeze().cpu().numpy()
            pred_mask = np.zeros(anomaly_map.shape, np.bool_) if item.pred_mask is None else _mask(item.pred_mask)
            gt_mask = _mask(item.gt_mask) if truth and item.gt_mask is not None else None
            image = None if self._is_cropped else _file(item.image_path)
            self._report.show(seen(item.image) if image is None else image, anomaly_map, pred_mask, gt_mask)

    def on_predict_batch_end(self, *args: Any) -> None:  # noqa: ANN401
        """Take the pictures of a batch."""
        self.on_test_batch_end(*args)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page."""
        del trainer, pl_module
        if self._report is not None:
            self._report.write()
            self._report = None

    on_predict_end = on_test_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the page of what was done before an error or Ctrl-C."""
        if self._report is not None:
            problem = type(exception).__name__
            self._report.notes.append(f"The run ended early, after {len(self._report.rows)} pictures: {problem}.")
        self.on_test_end(trainer, pl_module)


def _is_cropped(trainer: Trainer, pl_module: Any) -> bool:  # noqa: ANN401
    """Tell whether the model sees another part of the picture than its file has, so that the map would not fit it."""
    loaders: Any = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
    datasets = [loader.dataset for loader in (loaders if isinstance(loaders, list) else [loaders])]
    transforms = [getattr(pl_module.pre_processor, "transform", None)]
    transforms += [getattr(dataset, "augmentations", None) for dataset in datasets]
    return "Crop" in str(transforms)


def _mask(mask: Tensor) -> NDArray[np.bool_]:
    return mask.bool().squeeze().cpu().numpy()


def _file(path: str | None) -> Image | None:
    """Return the picture in its own size, in which a person sees more than in the model's."""
    try:
        data = np.frombuffer(Path(path or "").read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        return None


def seen(image: Tensor) -> Image:
    """Return what the model saw; values beyond [0, 1], of models that normalise, are brought back into it."""
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    pixels = ((image.float() - low) / (high - low) * 255).round().byte().cpu()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()[..., ::-1])
