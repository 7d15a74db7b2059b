"""A page to look at what a test or a prediction found."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import VideoBatch
from anomalib.data.utils import read_image
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from riad_anomalib.components.region import Region
from riad_anomalib.report import Image, Report
from riad_anomalib.report.names import apart, name_of

from .loaders import datasets
from .post_processing import without_thresholds
from .processes import gathered
from .visualizer import frame_paths, frames_as_images, output_path


class ReportVisualizer(Visualizer):
    """Writes ``report/report.html`` where anomalib's own visualizer writes its ``images/``.

    The page of :mod:`riad_anomalib.deploy`: pictures, scores by sub-folder, a threshold to move; with misses, false
    alarms and outlines of the truth where the data know it. Of a video every frame is a picture. For any model of
    anomalib that gives a map and verdicts. Several processes write one page, in the folder of the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._report: Report | None = None
        self._paths: list[str] = []
        self._is_cropped = False

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Begin a page.

        Raises:
            ValueError: If a process does not reach the folder of the first.
        """
        datamodule = getattr(trainer, "datamodule", None)
        names = [pl_module.name, getattr(datamodule, "name", None), getattr(datamodule, "category", None)]
        folder = Path(trainer.default_root_dir) / "report"
        if trainer.world_size > 1:
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
            folder = trainer.strategy.broadcast(folder)
            if not folder.is_dir():
                msg = f"process {trainer.global_rank} does not reach {folder}: give all machines a shared folder"
                raise ValueError(msg)
            if not trainer.is_global_zero:
                folder = folder / f"process_{trainer.global_rank}"
        self._report = Report(
            folder,
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
        images: Any = batch
        if isinstance(batch, VideoBatch):
            originals = batch.original_image
            images, paths = frames_as_images(batch), list(frame_paths(batch))
        else:
            paths, originals = [item.image_path for item in batch], None
        for number, (item, path) in enumerate(zip(images, paths, strict=True)):
            if item.anomaly_map is None or (item.pred_label is None and not without_thresholds(post_processor)):
                msg = (
                    f"ReportVisualizer shows maps and verdicts, and {pl_module.name} gives none: leave its "
                    "post-processor on, or use anomalib's ImageVisualizer"
                )
                raise ValueError(msg)
            place = len(self._report.rows) * trainer.world_size + trainer.global_rank  # samplers deal out in turn
            truth = None if item.gt_label is None else bool(item.gt_label)
            verdict = None if item.pred_label is None else bool(item.pred_label)
            self._report.add(path or f"{place:06}", float(item.pred_score), verdict, truth)
            anomaly_map = item.anomaly_map.float().squeeze().cpu().numpy()
            pred_mask = np.zeros(anomaly_map.shape, np.bool_) if item.pred_mask is None else _mask(item.pred_mask)
            gt_mask = _mask(item.gt_mask) if truth and item.gt_mask is not None else None
            image = None if self._is_cropped else _file(item.image_path)
            if originals is not None and not self._is_cropped:
                image = seen(originals[number].squeeze(0) / 255)  # of one frame, or of a clip's target
            image = seen(item.image) if image is None else image
            self._report.show(_dimmed(image, pl_module.model), anomaly_map, pred_mask, gt_mask)

    def on_predict_batch_end(self, *args: Any) -> None:  # noqa: ANN401
        """Take the pictures of a batch."""
        self.on_test_batch_end(*args)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page."""
        del pl_module
        report, self._report = self._report, None
        if report is None:
            return
        reports = gathered(trainer, report)
        if trainer.is_global_zero:
            known = {row.name for row in report.rows}
            for other in reports[1:]:
                for number, row in enumerate(other.rows):
                    if row.name not in known:  # samplers deal out some a second time, so that each has as many
                        report.adopt(other, number)
                        known.add(row.name)
                shutil.rmtree(other.folder)
            name_rows(trainer, report)
            report.write()

    on_predict_end = on_test_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the page of what was done before an error or Ctrl-C."""
        del pl_module
        report, self._report = self._report, None
        if report is None:
            return
        problem = type(exception).__name__
        report.notes.append(f"The run ended early, after {len(report.rows)} pictures: {problem}.")
        if trainer.world_size > 1:  # the others may be gone: nothing waits for them
            report.notes.append(f"These are the pictures of the first of {trainer.world_size} processes.")
        if trainer.is_global_zero:
            name_rows(trainer, report)
            report.write()
        else:
            shutil.rmtree(report.folder)


def name_rows(trainer: Trainer, report: Report) -> None:
    """Give the pictures of a report, which have their paths for names, names as short as tells them apart."""
    names = apart({row.name: output_path(trainer, row.name) for row in report.rows})
    for row in report.rows:
        row.name = name_of(names[row.name])


def _is_cropped(trainer: Trainer, pl_module: Any) -> bool:  # noqa: ANN401
    """Tell whether the model sees another part of the picture than its file has, so that the map would not fit it."""
    loaders = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
    transforms = [getattr(pl_module.pre_processor, "transform", None)]
    transforms += [getattr(dataset, "augmentations", None) for dataset in datasets(loaders)]
    return "Crop" in str(transforms)


def _dimmed(image: Image, model: Any) -> Image:  # noqa: ANN401
    """Return a picture that is darker where the model does not inspect it."""
    region = getattr(model, "region", None)
    inside = region.inside(torch.empty(1, 1, *image.shape[:2])) if isinstance(region, Region) else None
    return image if inside is None else np.where(inside[0, 0, :, :, None].cpu().numpy() > 0, image, image // 3)


def _mask(mask: Tensor) -> NDArray[np.bool_]:
    return mask.bool().squeeze().cpu().numpy()


def _file(path: str | None) -> Image | None:
    """Return the picture in its own size, in which a person sees more than in the model's."""
    try:
        return seen(torch.as_tensor(read_image(path or "", as_tensor=True)))
    except (OSError, ValueError):
        return None


def seen(image: Tensor) -> Image:
    """Return what the model saw; values beyond [0, 1], of models that normalise, are brought back into it."""
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    pixels = ((image.float() - low) / (high - low) * 255).round().byte().cpu()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()[..., ::-1])
