"""Pictures of what a model saw and what it made of it, and of how a video's scores run over time."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from anomalib.data import ImageBatch, VideoBatch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import (
    add_text_to_image,
    create_image_grid,
    visualize_anomaly_map,
    visualize_image,
)
from lightning.pytorch import Trainer

from riad_anomalib.report.names import file_of, lengthened

from .post_processing import without_thresholds
from .processes import gathered
from .video import video_names


class ScoredFrame(NamedTuple):
    """A frame of a video, its score and its labels, where there are any."""

    frame: int
    score: float
    is_anomalous: bool | None
    gt_label: bool | None


def frames_as_images(batch: VideoBatch) -> ImageBatch:
    """Return a batch of frames as one of images, which anomalib draws."""
    shared = {field.name for field in fields(ImageBatch)} & set(batch.keys(include_none=False))
    values = {name: batch[name] for name in shared - {"original_image"}}
    values["anomaly_map"] = values["anomaly_map"].squeeze(1)  # (N, H, W)
    return ImageBatch(**values)


def frame_paths(batch: Any) -> list[str]:  # noqa: ANN401
    """Return a path ``<video>/<frame>.png`` for every frame of a batch, which may be no file."""
    pairs = zip(batch.video_path, batch.frames.flatten().tolist(), strict=True)
    return [str(Path(video) / f"{frame:06}.png") for video, frame in pairs]


def images_and_paths(batch: Any) -> tuple[Any, list[str]]:  # noqa: ANN401
    """Return a batch of images, or of frames as such, and their paths."""
    if isinstance(batch, VideoBatch):
        return frames_as_images(batch), frame_paths(batch)
    return batch, batch.image_path or [""] * len(batch)


def output_path(trainer: Trainer, path: str) -> str:
    """Return where anomalib puts a picture of the image of this path, below the folder of pictures.

    That is the same for pictures of the same name in folders of the same name.
    """
    datamodule = getattr(trainer, "datamodule", None)
    name, category = getattr(datamodule, "name", None), getattr(datamodule, "category", None)
    file = generate_output_filename(path, Path(), dataset_name=name, category=category, mkdir=False)
    return file.as_posix()


class OutputFiles:
    """Where pictures of a run go, which come one by one: each has a file of its own."""

    def __init__(self) -> None:
        self._paths: dict[Path, str] = {}

    def of(self, trainer: Trainer, path: str, folder: Path) -> Path:
        """Return the file for the image of this path, and make the folder that it lies in.

        That is where anomalib puts it, or, if another image's picture is there, below more of the image's folders.
        """
        name = output_path(trainer, path)
        while self._paths.setdefault(folder / name, path) != path:
            name = lengthened(path, name)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


def plot_scores(video: str, scored: list[ScoredFrame], threshold: float | None, file: Path) -> None:
    """Draw a video's scores over time, what is above the threshold in red, and shade where the labels say anomalous."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # slow to import, and only videos need it

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([each.frame for each in scored], [each.score for each in scored], color="black", linewidth=1)
    above = [each for each in scored if each.is_anomalous]
    axes.plot([each.frame for each in above], [each.score for each in above], ".", color="red", label="anomalous")
    axes.fill_between(
        [each.frame for each in scored],
        0,
        1,
        where=[bool(each.gt_label) for each in scored],
        transform=axes.get_xaxis_transform(),
        step="mid",
        color="tab:orange",
        alpha=0.25,
        linewidth=0,
        label="labelled anomalous",
    )
    if threshold is not None:
        axes.axhline(threshold, color="tab:blue", linestyle="--", linewidth=1, label="threshold")
    axes.set(xlabel="frame", ylabel="score")
    axes.set_title(video, parse_math=False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file)


class VideoVisualizer(ImageVisualizer):
    """anomalib's pictures, of every frame of a video too, and with each video a plot and a table of its scores.

    Plots and tables go to ``scores/`` next to anomalib's ``images/``, when a run ends and when it breaks off. The
    arguments are those of anomalib's ``ImageVisualizer``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._scored: dict[str, list[ScoredFrame]] = defaultdict(list)
        self._files = OutputFiles()

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Begin with no pictures."""
        del trainer, pl_module
        self._files = OutputFiles()

    on_predict_start = on_test_start

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        """Write the pictures of a batch; prediction ends here too."""
        del pl_module, outputs, args
        if isinstance(batch, VideoBatch):
            self._remember(batch)
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        for item, path in zip(*images_and_paths(batch), strict=True):
            picture: Any = self.visualize(item)
            if picture is not None:
                picture.save(self._files.of(trainer, path, folder))

    def _remember(self, batch: Any) -> None:  # noqa: ANN401  # a VideoBatch, whose fields may all be None to mypy
        none = [None] * len(batch)
        columns = [none if values is None else values.tolist() for values in (batch.pred_label, batch.gt_label)]
        rows = zip(batch.frames.flatten().tolist(), batch.pred_score.tolist(), *columns, strict=True)
        for video, row in zip(batch.video_path, rows, strict=True):
            self._scored[video].append(ScoredFrame(*row))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Write tables and plots of the videos, of whose frames every process has a part."""
        scored: dict[str, dict[int, ScoredFrame]] = defaultdict(dict)
        for part in gathered(trainer, dict(self._scored)):
            for video, frames in part.items():
                scored[video].update({each.frame: each for each in frames})
        self._scored.clear()
        if trainer.is_global_zero:
            self._write(trainer, pl_module, {video: list(frames.values()) for video, frames in scored.items()})

    @staticmethod
    def _write(trainer: Trainer, pl_module: Any, videos: Mapping[str, Sequence[ScoredFrame]]) -> None:  # noqa: ANN401
        post_processor = pl_module.post_processor
        threshold = None
        if getattr(post_processor, "enable_thresholding", False) and not without_thresholds(post_processor):
            threshold = post_processor.normalized_image_threshold.item()
        folder = Path(trainer.default_root_dir) / "scores"
        names = video_names(videos)
        for path, frames in videos.items():
            video, scored = names[path], sorted(frames, key=lambda each: each.frame)
            table, plot = (folder / file_of(video, suffix) for suffix in (".csv", ".png"))
            table.parent.mkdir(parents=True, exist_ok=True)
            with table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([ScoredFrame._fields, *scored])
            plot_scores(video, scored, threshold, plot)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Write tables and plots of the videos."""
        self.on_test_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401
        """Write what there is; nothing of several processes, the others of which may be gone with their frames."""
        del exception
        if trainer.world_size == 1:
            self._write(trainer, pl_module, self._scored)
        self._scored.clear()


class ReconstructionVisualizer(VideoVisualizer):
    """anomalib's pictures, and beside them input, reconstruction and anomaly map side by side.

    The pictures go to ``reconstructions/`` next to anomalib's
    ``images/``. The network runs once more for every image, so testing and predicting take about twice as long. The
    arguments are those of anomalib's ``ImageVisualizer``.
    """

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        """Write the pictures of a batch; prediction ends here too.

        Raises:
            TypeError: If the model has no reconstruction to show.
        """
        if not hasattr(pl_module.model, "reconstruction"):
            msg = (
                f"ReconstructionVisualizer shows what a model reconstructs, and {pl_module.name}'s torch model has no "
                "reconstruction(image): use anomalib's ImageVisualizer"
            )
            raise TypeError(msg)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args)
        images, paths = images_and_paths(batch)
        folder = Path(trainer.default_root_dir) / "reconstructions"
        reconstructions = pl_module.model.reconstruction(images.image)  # (N, C, H, W)
        for item, reconstruction, path in zip(images, reconstructions, paths, strict=True):
            panels = {
                "Image": visualize_image(item.image),
                "Reconstruction": visualize_image(reconstruction),
                "Anomaly Map": visualize_anomaly_map(item.anomaly_map, colormap=True),
            }
            titled = [add_text_to_image(panel.resize(self.field_size), title) for title, panel in panels.items()]
            create_image_grid(titled, nrow=len(titled)).save(self._files.of(trainer, path, folder))
