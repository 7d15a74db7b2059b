"""Videos: clips become frames, and the score of a frame is the mean over itself and the frames before it.

The models look at frames one by one; only the score knows of time ([RIAD] Sec. 4.3). The torch model, and with it every
export, scores a frame alone.
"""

import logging
from collections import ChainMap, defaultdict
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any

import torch
from anomalib.data import VideoBatch, VideoItem
from anomalib.data.datamodules.base.video import AnomalibVideoDataModule
from anomalib.data.datasets.base.video import AnomalibVideoDataset, VideoTargetFrame
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from riad_anomalib.components.arguments import whole_number
from riad_anomalib.report import in_order
from riad_anomalib.report.names import apart, name_of

from .loaders import datasets, parts
from .processes import gathered

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}

_CLIPS = 5
"""Dimensions of a batch of clips, (N, T, C, H, W); clips of one frame come as (N, C, H, W)."""
_FRAMES = {".jpg", ".png", ".tif"}
"""Files that are frames; anomalib reads them by name."""


def check_past_frames(past_frames: Any) -> int:  # noqa: ANN401
    """Return over how many frames a score is averaged as a plain number.

    Raises:
        ValueError: If it is no whole number, or less than 1.
    """
    if whole_number("past_frames", past_frames) < 1:
        msg = f"past_frames is {past_frames}: give 1 for every frame's own score, or more, the paper's is 3"
        raise ValueError(msg)
    return int(past_frames)


def frame_by_frame(dataset: Any) -> Any:  # noqa: ANN401
    """Return a video data set in which every item is one frame and every frame is one item; others as they are."""
    if not isinstance(dataset, AnomalibVideoDataset) or dataset.indexer is None:
        return dataset
    dataset = copy(dataset)
    dataset.clip_length_in_frames = dataset.frames_between_clips = 1
    dataset.indexer = copy(dataset.indexer)
    dataset.indexer.compute_clips(1, 1)
    return dataset


def collate(items: list[VideoItem]) -> Any:  # noqa: ANN401
    """Return a batch of clips; of videos of different sizes, without the frames as they were before resizing."""
    if len({item.original_image.shape for item in items if item.original_image is not None}) > 1:
        for item in items:
            item.original_image = None
    return VideoBatch.collate(items)


def evaluate_every_frame(datamodule: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    """Let a video data module's validation, test and prediction see every frame once, whatever clips it was to cut.

    Clips leave frames out: those between them, those after the last whole one, and all but their target have no label.

    Returns:
        The attributes that were changed, with their values before.
    """
    changes = {"external_collate_fn": datamodule.external_collate_fn or collate}
    for name in ("val_data", "test_data"):
        clips: Any = getattr(datamodule, name, None)
        frames = frame_by_frame(clips)
        if frames is not clips:
            if len(frames) != len(clips):
                logger.info("%s: all %d frames are scored one by one, not %d clips.", name, len(frames), len(clips))
            changes[name] = frames
    before = [(name, getattr(datamodule, name)) for name in changes]
    for name, value in changes.items():
        setattr(datamodule, name, value)
    return before


class EveryFrame(Callback):
    """Evaluates every frame while a run lasts; then the data module is as it was: other models want its clips."""

    def __init__(self) -> None:
        self._before: list[tuple[str, Any]] = []
        self._datamodule: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put frames in the place of clips."""
        del pl_module, stage
        self._datamodule = getattr(trainer, "datamodule", None)
        if has_videos(self._datamodule):
            self._before = evaluate_every_frame(self._datamodule)

    def _restore(self) -> None:
        while self._before:
            setattr(self._datamodule, *self._before.pop())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the clips back."""
        del trainer, pl_module, stage
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the clips back."""
        del trainer, pl_module, exception
        self._restore()


def check_clips(datamodule: Any, stage: Any) -> None:  # noqa: ANN401
    """Set up a video data module, if it is one, and refuse it if it finds no clips.

    Raises:
        ValueError: If there are none to train on or none to test.
    """
    if not isinstance(datamodule, AnomalibVideoDataModule):
        return
    try:
        datamodule.setup(stage)
    except (IndexError, TypeError) as error:  # the latter of empty columns, where pandas keeps text in pyarrow
        root = Path(str(getattr(datamodule, "root", ""))) / str(getattr(datamodule, "category", ""))
        msg = (
            f"{datamodule.name} finds no clips to train on, or none to test, in {root}: give a root whose folders have "
            "videos, or frames, under the names that anomalib expects"
        )
        raise ValueError(msg) from error


def has_videos(datamodule: Any) -> bool:  # noqa: ANN401
    """Return whether a data module's test data are videos."""
    return isinstance(getattr(datamodule, "test_data", None), AnomalibVideoDataset)


def check_processes(trainer: Trainer, past_frames: int) -> None:
    """Refuse to average over frames that other processes have.

    Raises:
        ValueError: If there are others.
    """
    if trainer.world_size > 1 and past_frames > 1:
        msg = (
            f"past_frames is {past_frames}, and {trainer.world_size} processes share out the frames of every video: "
            "take one device (--trainer.devices 1), or past_frames 1"
        )
        raise ValueError(msg)


def check_frame_order(datamodule: Any, past_frames: int) -> None:  # noqa: ANN401
    """Refuse to average over frames that anomalib takes in the order of names where their numbers say another.

    Raises:
        ValueError: If a folder's are such.
    """
    if past_frames == 1:
        return
    for name in ("val_data", "test_data"):
        for part in parts(getattr(datamodule, name, None)):
            for folder in part.samples.image_path if isinstance(part, AnomalibVideoDataset) else ():
                files = Path(folder).iterdir() if Path(folder).is_dir() else ()
                frames = sorted(file for file in files if file.suffix in _FRAMES)
                for taken, counted in zip(frames, sorted(frames, key=in_order), strict=True):
                    if taken != counted:
                        msg = (
                            f"anomalib takes the frames of {folder} by name, {taken.name} before {counted.name}: pad "
                            "their numbers with zeros (and those of their masks), or set past_frames to 1"
                        )
                        raise ValueError(msg)


def flatten_clips(batch: Any) -> None:  # noqa: ANN401
    """Make every frame of clips ``(N, T, C, H, W)`` an image of the batch, in place; images stay as they are."""
    if isinstance(batch, VideoBatch):
        image: Tensor = batch.image  # type: ignore[assignment]
        if image.ndim == _CLIPS:
            batch.image = image.flatten(0, 1)  # (N*T, C, H, W)


def target_frame(trainer: Trainer) -> VideoTargetFrame:
    """Return which frame of its clips the labels of the data at hand are for.

    Raises:
        ValueError: If it is not the same in all of them.
    """
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    loaders = trainer.predict_dataloaders if trainer.predicting else loaders
    targets = {part.target_frame for part in datasets(loaders) if isinstance(part, AnomalibVideoDataset)}
    if len(targets) > 1:
        msg = f"the loaders' labels are for different frames of a clip, {targets}: evaluate one loader after another"
        raise ValueError(msg)
    return targets.pop() if targets else VideoTargetFrame.LAST


def video_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the names of videos by their paths: those of their files without ending, or of their folders of frames.

    Where two videos have one name, both get more of their paths.
    """
    return apart({path: name_of(without_suffix(Path(path).name)) for path in paths})


def without_suffix(name: str) -> str:
    """Return a video's name without its ending; what follows a dot in the name of a folder is none."""
    path = Path(name)
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else name


class FrameScores:
    """The scores of an evaluation's frames by video and number: none is scored twice, and each joins the next ones'.

    Args:
        past_frames: Over how many frames a score is averaged, its own the last.
    """

    def __init__(self, past_frames: int) -> None:
        self.past_frames = past_frames
        self._own: dict[str, dict[int, float]] = defaultdict(dict)
        self._labelled: dict[tuple[str, int], tuple[float, bool]] = {}

    def take_new_frames(self, batch: Any, target: VideoTargetFrame = VideoTargetFrame.LAST) -> None:  # noqa: ANN401
        """Make a batch of frames that have no score yet of a batch of clips, in place.

        A batch tells the number and the label of one frame of a clip, its target: that frame is taken.

        Args:
            batch: A ``VideoBatch`` of clips ``(N, T, C, H, W)``, or frames ``(N, C, H, W)``.
            target: Which frame of a clip is the target.

        Raises:
            ValueError: If the batch does not say which frames it has, has no new one, or comes out of order.
        """
        if batch.video_path is None or batch.frames is None:
            msg = "a batch of video has no video_path or no frames: give what anomalib's video data sets collate"
            raise ValueError(msg)
        image: Tensor = batch.image
        if image.ndim == _CLIPS:
            image = image[:, {"first": 0, "mid": image.shape[1] // 2}.get(VideoTargetFrame(target).value, -1)]
        frames, new = batch.frames.flatten().tolist(), []
        for row, (video, frame) in enumerate(zip(batch.video_path, frames, strict=True)):
            if frame not in self._own[video]:
                self._check_order(video, frame)
                self._own[video][frame] = float("nan")  # until averaged() gets it
                new.append(row)
        if not new:
            msg = f"every frame of a batch of {Path(batch.video_path[0]).name} was scored before: give each frame once"
            raise ValueError(msg)
        changes: dict[str, Any] = {"image": image[new]}
        for name in batch.keys(include_none=False):
            if name != "image":
                value = batch[name]
                changes[name] = value[new] if isinstance(value, Tensor) else [value[row] for row in new]
        batch.update(**changes)

    def _check_order(self, video: str, frame: int) -> None:
        for later in range(frame + 1, frame + self.past_frames):
            if later in self._own[video]:
                msg = (
                    f"frame {frame} of {Path(video).name} comes after frame {later}, which it is averaged into: give "
                    "frames in order (no shuffle), or past_frames 1"
                )
                raise ValueError(msg)

    def averaged(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Return the scores of a batch of new frames, each the mean over its own and those of the frames before it.

        The first frames of a video, and those after a gap, average what there is.

        Args:
            batch: What :meth:`take_new_frames` left, with every frame's own score.
        """
        # CHOICE [RIAD] Sec. 4.3: the mean is over scores, not maps, and only over frames of the same video.
        scores: Tensor = batch.pred_score.float()
        frames = batch.frames.flatten().tolist()
        means = []
        for video, frame, score in zip(batch.video_path, frames, scores.tolist(), strict=True):
            own = self._own[video]
            own[frame] = score
            window = [own[past] for past in range(frame - self.past_frames + 1, frame + 1) if past in own]
            means.append(sum(window) / len(window))
        if batch.gt_label is not None:
            names = zip(batch.video_path, frames, strict=True)
            self._labelled.update(zip(names, zip(means, batch.gt_label.tolist(), strict=True), strict=True))
        return torch.tensor(means, device=scores.device)

    def aurocs(self, trainer: Trainer | None = None) -> dict[str, float]:
        """Return the AUROC of every video that has normal and anomalous frames, by its name.

        Args:
            trainer: Gathers the frames of all processes, every one of which calls this; a frame that several of them
                had counts once.
        """
        found = [self._labelled] if trainer is None else gathered(trainer, self._labelled)
        videos: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for (video, _), pair in sorted(ChainMap(*found).items()):
            videos[video].append(pair)
        values, names = {}, video_names(videos)
        for video, pairs in videos.items():
            scores, labels = torch.tensor(pairs, dtype=torch.float64).T
            if 0 < labels.mean() < 1:
                values[names[video]] = binary_auroc(scores, labels.long()).item()
        return values
