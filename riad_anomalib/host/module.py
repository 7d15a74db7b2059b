"""The one mixin that makes a torch model of this package a model of anomalib."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from anomalib import LearningType, TaskType
from anomalib.data import AnomalibDataModule, Batch, VideoBatch
from anomalib.data.datasets.base.video import VideoTargetFrame
from anomalib.deploy import CompressionType
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics import Metric
from torchvision.transforms.v2 import Resize

from riad_anomalib.components.calibration import Calibration, mean_and_std
from riad_anomalib.components.region import Region
from riad_anomalib.components.registration import Registration
from riad_anomalib.components.variation import Variation, vary
from riad_anomalib.registry import public_path

from . import checkpoints, crops, held_out, length, post_processing, pre_processing, video
from .loaders import BatchCheck, check_validation, with_augmentations
from .normal_images import normal_batches, normal_images, normal_statistics, views, warn_of_lost_range
from .quantization import compress_weights, halve_weights, quantize, quantize_with_accuracy_control
from .region import check_aspect
from .thinning import around
from .visualizer import VideoVisualizer

if TYPE_CHECKING:
    import openvino  # an optional dependency

    Module = AnomalibModule
else:
    Module = object  # anomalib finds the direct subclasses of AnomalibModule alone, so that must stay a base of its own

logger = logging.getLogger(__name__)

Size = TypeVar("Size", bound=tuple[int, int] | None)

STILL = (
    "Calibration presumes that light and position stay as they are in the training images. Where they will not, give "
    "--model.registration auto, or variation, for example --model.variation.translate 0.02 (docs/choosing.md)."
)


class TorchModel(Protocol):
    """What the host asks of ``self.model``, a torch module that returns anomalib's ``InferenceBatch`` in evaluation."""

    calibration: Calibration
    """What normal images look like."""
    registration: Registration
    """Their light and place."""
    region: Region
    """Where images are inspected."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images that it takes, its only home; None for any."""

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Take images of another size from now on; forget the statistics of normal images."""

    def dissimilarity_map(self, image: Tensor) -> Tensor:
        """Return the map that calibration is for, or several of them, of a batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            ``(N, 1, H, W)``, or ``(N, M, H, W)``.
        """


class HostMixin(Module):
    """Everything that makes a model live in anomalib and is none of its method.

    Use it as ``class Riad(HostMixin, AnomalibModule)``. The class declares what stands below, its ``__init__`` calls
    ``super().__init__`` with anomalib's own arguments and then builds ``self.model``, a :class:`TorchModel`, with the
    size that :meth:`adopt_pre_processor` returns; it needs a ``training_step`` and ``configure_optimizers`` of its own.
    There is no ``__init__`` here because Lightning reads the arguments to save from the frame of the class's own.
    """

    default_image_size: ClassVar[tuple[int, int]]
    """Height and width that images are resized to when the user gives none."""
    default_epochs: ClassVar[int]
    """Length of training when the user gives none."""
    network_arguments: ClassVar[Sequence[str]]
    """Arguments that make another network: a checkpoint with other values is refused."""
    network_switches: ClassVar[Sequence[str]] = ()
    """Arguments of which 0 makes another network than any other value does; that value itself makes none."""
    scoring_arguments: ClassVar[Sequence[str]]
    """Arguments that make other scores of the same network: a checkpoint with other values brings a warning."""

    past_frames: int = 3  # [RIAD] Sec. 4.3
    """Over how many frames of a video a score is averaged, its own the last; images never see it."""

    variation: Variation | None = None
    """How light and position vary in training, and in the statistics of normal images."""
    window: tuple[int, int] | None = None
    """Height and width of the crops that training sees, in the pixels of what is cropped."""

    model: TorchModel  # type: ignore[assignment]  # a module too
    _frame_scores: video.FrameScores | None = None

    # Components

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Return the default pre-processor: resize, and leave the values in [0, 1]."""
        return PreProcessor(Resize(image_size or cls.default_image_size, antialias=True))

    def configure_post_processor(self) -> PostProcessor:
        """Return the default post-processor: anomalib's, without a picture on the edge of the threshold."""
        return post_processing.VerdictPostProcessor()

    @staticmethod
    def configure_visualizer() -> ImageVisualizer:
        """Return the default visualizer: anomalib's, and what videos need."""
        return VideoVisualizer()

    def adopt_pre_processor(self, given: PreProcessor | bool, image_size: Size) -> tuple[int, int] | Size:
        """Take the user's pre-processor or the default for this size; exports and engine then see the same images.

        Returns:
            Height and width at which images reach the model: a pre-processor that resizes wins over ``image_size``,
            which is None for pictures in their own size.
        """
        if given is True:
            self.pre_processor = self.configure_pre_processor(image_size) if image_size else PreProcessor()
        pre_processing.smooth_exports(self.pre_processor)
        return pre_processing.size_after(self.pre_processor, image_size)

    def adopt_false_alarms(self, rate: float | None) -> None:
        """Let thresholds be found at this rate of false alarms, None for what the post-processor says.

        Raises:
            ValueError: If it is no rate, or the post-processor knows none.
        """
        if rate is not None:
            post_processing.set_rate(self.post_processor, rate)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width at which images reach the model, whatever pre-processor or checkpoint brought; None: any."""
        return self.model.image_size

    def prepare_data(self) -> None:
        """Refuse a video data module without clips, while its set-up would fail with an index that is out of range."""
        video.check_clips(getattr(self.trainer, "datamodule", None), self.trainer.state.fn)

    def setup(self, stage: str) -> None:
        """Refuse, before any time is spent, what cannot work.

        Raises:
            ValueError: If the pre-processor takes images out of [0, 1], the precision is none that images come in,
                there is no validation, or several processes share out a video, or its frames are in disorder, a
                picture is smaller than a crop, or the region has another shape than pictures.
        """
        super().setup(stage)
        pre_processing.check_range(self.pre_processor, self.image_size)
        pre_processing.check_precision(self.trainer.precision)
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, AnomalibDataModule) and not hasattr(datamodule, "val_data"):
            post_processing.check_has_validation(self.post_processor)
            self.trainer.limit_val_batches = 0  # val_split_mode none, with which anomalib fails on its loader
        check_validation(self.trainer)
        if not self.model.region.is_everywhere:
            check_aspect(datamodule, self.model.region.mask)
        if not video.has_videos(datamodule):
            held_out.take_all(datamodule, stage)
            if self.image_size is None and isinstance(datamodule, AnomalibDataModule):
                crops.one_by_one(datamodule)
                if stage == "fit" and self.window:
                    crops.cut(datamodule, self.window)
        else:
            video.check_processes(self.trainer, self.past_frames)
            video.check_frame_order(datamodule, self.past_frames)

    # Training

    @property
    def trainer(self) -> Trainer:
        """The trainer that the model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        if trainer is not None:
            length.set_default_epochs(trainer, self.default_epochs)
        super(HostMixin, type(self)).trainer.fset(self, trainer)  # type: ignore[attr-defined]

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """What the models insist on: no validation before the first epoch, there is nothing to see."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """The models learn from normal images only."""
        return LearningType.ONE_CLASS

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Return anomalib's components, and let the saved config of a command-line run say ``Riad``, not ``riad``."""
        for callback in length.callbacks(self._trainer) if self._trainer else ():
            # Lightning's own command line for one class saves its arguments without a class_path.
            if isinstance(callback, SaveConfigCallback) and "model.class_path" in callback.config:
                callback.config["model.class_path"] = public_path(callback.config["model.class_path"])
        held_out.fix_split(getattr(self._trainer, "datamodule", None))  # before any process sets up data
        given: list[Callback] = []
        for callback in super().configure_callbacks():  # type: ignore[union-attr]  # a list
            given += around(callback) if isinstance(callback, Evaluator) else [callback]
        return [BatchCheck(), *given, video.EveryFrame()]

    def on_fit_start(self) -> None:
        """Give every process of a distributed run random numbers of its own; warn of epochs in vain."""
        length.warn_of_unseen_epochs(self.trainer)
        bears = self.variation or self.model.registration.needs_statistics
        if self.model.calibration.needs_statistics and not bears:
            logger.warning(STILL)
        if self.trainer.world_size > 1:
            # All processes start from the same seed, whether the user gave one or not.
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_start(self) -> None:
        """Refuse, before the first step, what validation would fail on after the last of an epoch; look at pictures."""
        check_validation(self.trainer)
        warn_of_lost_range(self.trainer)

    def on_train_batch_start(self, batch: Batch[Any], batch_idx: int) -> None:
        """Make every frame of a clip an image to train on; vary light and position of each."""
        del batch_idx
        video.flatten_clips(batch)
        if self.variation:
            image: Tensor = batch.image  # type: ignore[assignment]
            batch.image = vary(image, self.variation)  # the target too: lamps differ, to undo that is no task

    def on_validation_start(self) -> None:
        """Gather the statistics of normal images that this validation's maps, and with them its thresholds, are for."""
        self._frame_scores = None
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        self.gather_registration()
        calibration = self.model.calibration
        if calibration.needs_statistics:
            statistics = partial(calibration.statistics, inside=self.model.region.inside)
            gathered = self.normal_statistics(self.model.dissimilarity_map, statistics)
            calibration.set_statistics(*gathered)

    def gather_registration(self) -> None:
        """Take light and place of normal training images, which all further statistics depend on."""
        if self.model.registration.needs_statistics:
            images = (batch.to(self.device) for batch in normal_batches(self.trainer))
            seen = [pre_processing.transformed(self.pre_processor, batch) for batch in images]
            self.model.registration.gather(torch.cat(seen))

    def normal_statistics(
        self,
        values: Callable[[Tensor], Tensor],
        statistics: Callable[[Tensor], tuple[Tensor, Tensor]] = mean_and_std,
    ) -> tuple[Tensor, Tensor]:
        """Return statistics of what is made of normal training images, the same in all processes.

        Args:
            values: From a batch as the model sees it to values, ``(N, ...)``.
            statistics: From all images' values to two tensors.

        Returns:
            The two, on the CPU.
        """
        draws = torch.Generator().manual_seed(0)  # the same in all processes, on every device, in every validation

        def values_of(images: Tensor) -> Tensor:
            seen = pre_processing.transformed(self.pre_processor, images.to(self.device))
            seen_so = views(seen, self.variation, draws)
            return torch.cat([values(self.model.registration(view)[0]) for view in seen_so])

        return normal_statistics(self.trainer, values_of, statistics)

    # Evaluation

    def on_test_start(self) -> None:
        """Begin videos anew."""
        self._frame_scores = None

    def on_predict_start(self) -> None:
        """Begin videos anew."""
        self._frame_scores = None

    def validation_step(self, batch: Batch[Any], batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Score a batch."""
        return self.test_step(batch, batch_idx, *args, **kwargs)

    def test_step(self, batch: Batch[Any], batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Score a batch; of clips, in place, every frame that has no score yet.

        anomalib's thresholds and metrics read the batch, so they are those of the averaged scores.
        """
        if not isinstance(batch, VideoBatch):
            return super().test_step(batch, batch_idx, *args, **kwargs)
        target = VideoTargetFrame.LAST
        if self._trainer is not None:
            video.check_processes(self.trainer, self.past_frames)  # of loaders that no data module has
            target = video.target_frame(self.trainer)
        if self._frame_scores is None:
            self._frame_scores = video.FrameScores(self.past_frames)
        self._frame_scores.take_new_frames(batch, target)
        outputs = super().test_step(batch, batch_idx, *args, **kwargs)  # the batch itself
        batch.pred_score = self._frame_scores.averaged(batch)
        return outputs

    def predict_step(self, batch: Batch[Any], batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Score a batch."""
        return self.test_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the AUROC of every video beside that of all."""
        if self._frame_scores is not None:
            for name, value in self._frame_scores.aurocs(self.trainer).items():
                self.log(f"image_AUROC/{name}", value, sync_dist=True)

    # Checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> AnomalibModule:  # type: ignore[override]  # noqa: ANN401
        """Build a model of a checkpoint, as anomalib does; ``post_processor=False`` leaves the bare map and score.

        Raises:
            ValueError: If the checkpoint is of another model.
        """
        kwargs.setdefault("region", None)  # the checkpoint holds it, and its picture may be gone
        try:
            model: AnomalibModule = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except (RuntimeError, TypeError, ValueError):
            # Of another model's arguments some fit, and what does not is no help.
            checkpoints.check_model(torch.load(checkpoint_path, map_location="cpu", weights_only=True), cls)
            raise
        return model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the checkpoint's pre-processing and refuse the weights of another model or network.

        Raises:
            ValueError: If the checkpoint's model or network is another than this one.
        """
        checkpoints.check_model(checkpoint, type(self), [name for name, _ in self.named_parameters()])
        checkpoints.check_network(
            checkpoint, self.hparams, self.network_arguments, self.name, switches=self.network_switches
        )
        checkpoints.warn_of_other_scores(checkpoint, self.hparams, self.scoring_arguments)
        super().on_load_checkpoint(checkpoint)
        if self.post_processor is None:
            checkpoints.drop(checkpoint, "post_processor.")
        pre_processing.smooth_exports(self.pre_processor)
        size_before = self.image_size
        size = pre_processing.size_after(self.pre_processor, size_before)
        if size is None or size_before is None or size == size_before:
            return
        logger.warning("Images are resized to %dx%d as in the checkpoint, not to %dx%d.", *size, *size_before)
        self.model.set_image_size(size)
        # anomalib hands a data module the Resize of the pre-processor before the checkpoint replaces it. Without
        # another hand-over images would be resized twice, first to the size that is no longer in use.
        datamodule = getattr(self._trainer, "datamodule", None)
        if datamodule is not None:
            datamodule.setup(self.trainer.state.fn)

    # Exports

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export for anomalib's TorchInferencer, which leaves gradients on: without any to compute.

        Raises:
            ValueError: If the model has no thresholds.
        """
        self._check_thresholds()
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.requires_grad_(False)
        try:
            return super().to_torch(export_root, model_file_name)
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]  # noqa: ANN401  # as anomalib
        """Export to ONNX, on the way to OpenVINO too, quietly and with an opset that torch needs not convert to.

        Raises:
            ValueError: If the model has no thresholds, or images are resized to a size that depends on their own.
        """
        self._check_thresholds()
        pre_processing.check_export(self.pre_processor)
        input_size = args[2] if len(args) > 2 else kwargs.get("input_size")  # noqa: PLR2004  # the third
        if self.image_size is None and input_size is None:
            # anomalib's own example is of 2x2 pixels, whose features are one pixel: export would take that for a rule.
            dynamic = torch.export.Dim.DYNAMIC
            kwargs = {"dynamic_shapes": ({0: dynamic, 2: dynamic, 3: dynamic},), **kwargs}
        return super().to_onnx(*args, **{"opset_version": 18, "verbose": False, **kwargs})

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        *args: Any,  # noqa: ANN401  # as anomalib
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to OpenVINO; in ``FP16`` the network's weights alone, where anomalib would halve every constant."""
        if compression_type != CompressionType.FP16:
            return super().to_openvino(export_root, model_file_name, input_size, compression_type, *args, **kwargs)
        import openvino  # noqa: PLC0415

        with TemporaryDirectory() as folder:
            whole = super().to_openvino(folder, model_file_name, input_size, None, *args, **kwargs)
            file = Path(export_root) / whole.relative_to(folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            core = openvino.Core()
            core.set_property({"ENABLE_MMAP": False})  # Windows does not delete a file that is mapped
            openvino.save_model(halve_weights(core.read_model(whole)), file, compress_to_fp16=False)
        return file

    def _check_thresholds(self) -> None:
        """Refuse to export verdicts that a model cannot give; what it learnt does not tell: networks differ."""
        if why := post_processing.without_thresholds(self.post_processor):
            msg = (
                f"the model to export has no thresholds, without which every verdict is meaningless: {why}. "
                f"{post_processing.WHAT_TO_DO}; on the command line --ckpt_path names the checkpoint. For the bare "
                f"anomaly map and score: {self.name}.load_from_checkpoint(path, post_processor=False), then "
                "Engine.export without ckpt_path"
            )
            raise ValueError(msg)

    def _compress_ov_model(
        self,
        model: "openvino.Model",
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
    ) -> "openvino.Model":
        """Compress the network alone, with ranges from normal training images; anomalib would take everything."""
        if compression_type == CompressionType.INT8:
            return compress_weights(model)
        if compression_type not in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
            return super()._compress_ov_model(model, compression_type, datamodule, metric, task, max_drop)
        if datamodule is None:
            msg = (
                f"compression_type {CompressionType(compression_type).name} needs images: give the data that the model "
                "was trained on, --data on the command line or datamodule in Python; INT8 takes the weights alone and "
                "needs none"
            )
            raise ValueError(msg)
        datamodule.setup("fit")
        shape = model.input(0).partial_shape
        size = (shape[2].get_length(), shape[3].get_length()) if shape[2].is_static else self.image_size
        resize = Resize(size, antialias=True) if size else None
        images = normal_images(datamodule.train_data, resize)
        if compression_type == CompressionType.INT8_PTQ:
            return quantize(model, images)
        labelled = with_augmentations(video.frame_by_frame(datamodule.val_data), resize)
        return quantize_with_accuracy_control(model, images, labelled, metric, max_drop)
