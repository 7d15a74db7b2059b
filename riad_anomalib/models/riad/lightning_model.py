"""RIAD as a model of anomalib."""

import logging
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib import LearningType, TaskType
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from anomalib.deploy import CompressionType
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from riad_anomalib.components.arguments import finite_number, whole_number
from riad_anomalib.components.resize import AntialiasedResize
from riad_anomalib.registry import public_path

from .loss import RiadLoss
from .quantization import quantize, quantize_with_accuracy_control
from .torch_model import RiadModel

if TYPE_CHECKING:
    import openvino  # an optional dependency

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_SIZE = (256, 256)
"""Height and width that images are resized to when the user gives none ([RIAD] Sec. 4)."""
DEFAULT_EPOCHS = 300
"""Length of training when the user gives none ([RIAD] Sec. 4.3)."""
LR_DROP_AT = 250 / 300
"""Share of training after which the learning rate drops to a tenth ([RIAD] Sec. 4.3)."""
RANGE_TOLERANCE = 1e-3
"""How far a black or white image may leave [0, 1] in pre-processing: a quarter of a grey level, for rounding.

Bicubic resizing also overshoots at edges (to 1.04 on pictures of MVTec AD's bottle). That is left as it is: the
loss and the map compare gradients, for which [0, 1] is no bound, and the network meets the same edges in training.
"""
CALIBRATION_IMAGES = 40
"""Training images that statistics are taken from, of calibration and of quantization: 20 to 180 gave the same maps."""


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set outside of Trainer's own class
    return callbacks


def _plain(argument: Any) -> Any:  # noqa: ANN401
    """Make a list of a tuple: whoever overrides a checkpoint's argument may give either."""
    return list(argument) if isinstance(argument, tuple) else argument


def _augmented(dataset: Any, augmentations: Transform | None) -> Any:  # noqa: ANN401
    """Return a data set of anomalib with these augmentations instead of its own."""
    dataset = copy(dataset)
    dataset.augmentations = augmentations
    return dataset


def _with_antialiasing(exportable: Any, transform: Any) -> Any:  # noqa: ANN401
    """Return an exportable transform that shrinks images as the transform that it is for does.

    anomalib takes antialiasing out of what it exports: thresholds found with it would meet other images there.
    """
    if isinstance(transform, Compose):
        pairs = zip(exportable.transforms, transform.transforms, strict=True)
        return Compose([_with_antialiasing(*pair) for pair in pairs])
    if (
        isinstance(transform, Resize)
        and transform.antialias
        and transform.interpolation in {"bilinear", InterpolationMode.BILINEAR}  # the former since torchvision 0.29
        and len(transform.size) == 2  # noqa: PLR2004
    ):
        return AntialiasedResize((transform.size[0], transform.size[1]))
    return exportable


def normal_images(dataset: Any, augmentations: Transform | None) -> Subset[ImageItem]:  # noqa: ANN401
    """Return the images of a training set that statistics are taken from, spread evenly over it.

    Args:
        dataset: anomalib's training set.
        augmentations: What they are seen with, instead of the set's own augmentations.
    """
    number = min(CALIBRATION_IMAGES, len(dataset))
    return Subset(_augmented(dataset, augmentations), [i * len(dataset) // number for i in range(number)])


class Riad(AnomalibModule):
    """Reconstruction by inpainting for visual anomaly detection ([RIAD], Zavrtanik et al. 2021).

    An image is split into square regions, disjoint random sets of regions are removed, a U-Net paints each set back
    from its surroundings, and what it could not paint back is the anomaly map. Trained on normal images only. The
    defaults are the paper's; without a given length, training takes 300 epochs.

    Args:
        region_sizes: Side lengths K of the square regions in pixels; one is drawn per training step, all are used at
            inference.
        num_disjoint_sets: Number n of sets that the regions are dealt to, at least 2.
        base_width: Channels of the U-Net's first level. Half the width costs a quarter.
        skip_connections: Whether the U-Net has skip connections (RIAD) or not (RIAD_ns, Table 6).
        score_function: Similarity behind the anomaly map: ``"msgms"``, ``"ssim"`` (RIAD_SSIM, Table 6), or
            ``"msgms_grey"``, which compares the gradients of grey images, not of every channel.
        msgms_weight: Weight lambda_G of the MSGMS loss.
        ssim_weight: Weight lambda_S of the SSIM loss.
        calibration: ``"none"`` (paper), or ``"pixel"``: the anomaly map counts what exceeds the mean of 40 training
            images at that pixel, the more the less they vary there. Gathered before every validation of a training.
        smoothing_size: Side length s_f of the mean filter over the anomaly map: an odd number of pixels, or a share of
            the image's shorter side in (0, 1); 0.08 is 21 pixels at 256, 11 at 128.
        lr: Learning rate of Adam; a tenth of it for the last sixth of training.
        image_size: Height and width that images are resized to, multiples of 16 and of every region size. A
            ``pre_processor`` that resizes wins over it.
        num_partitions: Partitions of every region size that inference averages over; cost is proportional to it.
        partition_seed: Seed of the partitions that inference uses, in [0, 2**32).
        pre_processor: Pre-processor, or whether to use the default (resize to ``image_size``; no normalisation: a
            removed pixel is 0 and the constants of GMS and SSIM are for [0, 1]).
        post_processor: Post-processor, or whether to use anomalib's default.
        evaluator: Evaluator, or whether to use anomalib's default.
        visualizer: Visualizer, or whether to use anomalib's default.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    model: RiadModel
    loss: RiadLoss

    def __init__(
        self,
        region_sizes: Sequence[int] = (2, 4, 8, 16),
        num_disjoint_sets: int = 3,
        base_width: int = 64,
        skip_connections: bool = True,
        score_function: str = "msgms",
        msgms_weight: float = 1.0,
        ssim_weight: float = 1.0,
        calibration: str = "none",
        smoothing_size: int | float = 21,  # noqa: PYI041  # jsonargparse would turn 21 into 21.0
        lr: float = 1e-4,
        image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE,
        num_partitions: int = 1,
        partition_seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Lightning saves the arguments as they stand when super().__init__ runs. The benchmark runner and
        # get_model hand over OmegaConf lists, which torch.load refuses under weights_only=True.
        if isinstance(region_sizes, str) or not isinstance(region_sizes, Sequence):
            msg = f"region_sizes is {region_sizes!r}: give a list of whole numbers of pixels, for example [2, 4, 8, 16]"
            raise ValueError(msg)
        region_sizes = [whole_number("region_sizes", k) for k in region_sizes]
        if not isinstance(image_size, Sequence) or len(image_size) != 2:  # noqa: PLR2004
            msg = f"image_size is {image_size}: give height and width, for example (256, 256)"
            raise ValueError(msg)
        image_size = (whole_number("image_size", image_size[0]), whole_number("image_size", image_size[1]))
        if finite_number("lr", lr) <= 0:
            msg = f"lr is {lr}: it must be a positive number, the paper's is 1e-4"
            raise ValueError(msg)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(image_size)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self._smooth_exports()
        self.lr = lr
        self.model = RiadModel(
            channels=3,  # anomalib reads every file, grey ones too, as RGB
            image_size=self._size_after_pre_processor(image_size),
            region_sizes=region_sizes,
            num_disjoint_sets=num_disjoint_sets,
            base_width=base_width,
            skip_connections=skip_connections,
            score_function=score_function,
            calibration=calibration,
            smoothing_size=smoothing_size,
            num_partitions=num_partitions,
            partition_seed=partition_seed,
        )
        self.loss = RiadLoss(msgms_weight, ssim_weight)

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Return the default pre-processor: resize, and leave the values in [0, 1]."""
        return PreProcessor(Resize(image_size or DEFAULT_IMAGE_SIZE, antialias=True))

    def _smooth_exports(self) -> None:
        """Let exports, and calls of the model on images of any size, shrink images as the engine does."""
        pre_processor: Any = self.pre_processor
        if hasattr(pre_processor, "export_transform"):
            pre_processor.export_transform = _with_antialiasing(pre_processor.export_transform, pre_processor.transform)

    def _probe_pre_processor(self, height: int, width: int) -> torch.Tensor:
        """Return what the pre-processor makes of a black and a white image, ``(2, 3, H, W)``."""
        probe = torch.stack([torch.zeros(3, height, width), torch.ones(3, height, width)])
        return self._transform(probe)

    def _transform(self, images: Tensor) -> Tensor:
        """Return what the pre-processor makes of a batch while anomalib's engine runs."""
        transform = getattr(self.pre_processor, "transform", None)
        return images if transform is None else transform(images)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width at which images reach the model, whatever pre-processor or checkpoint brought."""
        return self.model.image_size

    def _size_after_pre_processor(self, unresized: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width at which images reach the model; ``unresized`` is theirs if nothing resizes."""
        tall, wide = (tuple(self._probe_pre_processor(*size).shape[-2:]) for size in ((192, 128), (128, 192)))
        if tall == wide:
            return tall[0], tall[1]
        if (tall, wide) == ((192, 128), (128, 192)):
            return unresized
        msg = (
            "the pre-processor gives images of a size that depends on their own: "
            "resize to a fixed height and width, for example Resize((256, 256)) instead of Resize(256)"
        )
        raise ValueError(msg)

    @property
    def trainer(self) -> Trainer:
        """The trainer that the model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # anomalib puts trainer_arguments above what the user gives, so the default length cannot stand there. Here it
        # is not yet resolved: once it is, Lightning has put its own 1000 epochs in the place of None.
        if (
            trainer is not None
            and trainer.state.fn == TrainerFn.FITTING
            and trainer.max_epochs is None
            and trainer.max_steps == -1
            and not any(isinstance(callback, Timer) for callback in _callbacks(trainer))
        ):
            trainer.fit_loop.max_epochs = DEFAULT_EPOCHS
        super(Riad, type(self)).trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Return anomalib's components, and let the saved config of a command-line run say ``Riad``, not ``riad``."""
        for callback in _callbacks(self._trainer) if self._trainer else ():
            # Lightning's own command line for one class saves its arguments without a class_path.
            if isinstance(callback, SaveConfigCallback) and "model.class_path" in callback.config:
                callback.config["model.class_path"] = public_path(callback.config["model.class_path"])
        return super().configure_callbacks()

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that RIAD insists on: no validation before the first epoch, there is nothing to see."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """RIAD learns from normal images only."""
        return LearningType.ONE_CLASS

    def setup(self, stage: str) -> None:
        """Refuse a pre-processor that takes images out of [0, 1], before any time is spent on them."""
        super().setup(stage)
        probe = self._probe_pre_processor(*self.model.image_size)
        if probe.min() < -RANGE_TOLERANCE or probe.max() > 1 + RANGE_TOLERANCE:
            msg = (
                f"the pre-processor maps images in [0, 1] to [{probe.min():.3g}, {probe.max():.3g}]; RIAD needs [0, 1] "
                "because a removed pixel is 0: take Normalize (or what else rescales values) out of its transform"
            )
            raise ValueError(msg)

    def on_fit_start(self) -> None:
        """Give every process of a distributed run its own partitions."""
        if self.trainer.world_size > 1:
            # All processes start from the same seed, whether the user gave one or not.
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_validation_start(self) -> None:
        """Gather the statistics of normal images that this validation's maps, and with them its thresholds, are for."""
        if self.model.calibration == "pixel" and self.trainer.state.fn == TrainerFn.FITTING:
            self.model.normal_mean, self.model.normal_std = self._normal_statistics()

    def _normal_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the dissimilarity over training images, each ``(1, H, W)``."""
        loader: Any = self.trainer.train_dataloader
        val_loader: Any = self.trainer.val_dataloaders
        # The training images as validation sees images: resized to be batched, not augmented to train on.
        images = normal_images(loader.dataset, getattr(val_loader.dataset, "augmentations", None))
        values = []
        for batch in DataLoader(images, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn):
            image = batch.image.to(self.device)
            with self.trainer.precision_plugin.val_step_context():
                values.append(self.model.dissimilarity_map(self._transform(image)))
        std, mean = torch.std_mean(torch.cat(values), dim=0, correction=0)
        # Processes of a distributed run differ in batch norm's averages; the checkpoint has those of the first.
        mean, std = self.trainer.strategy.broadcast((mean.cpu(), std.cpu()))
        return mean.to(self.device), std.to(self.device)

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Reconstruct a batch of normal images from random partitions and compare ([RIAD] Alg. 2)."""
        del args, kwargs
        image: Tensor = batch.image  # type: ignore[assignment]
        terms = self.loss.terms(self.model(image), image)
        loss = self.loss.weigh(terms)
        logged = {f"train_{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_epoch=True, batch_size=len(image), sync_dist=True)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, batch_size=len(image), sync_dist=True)
        return {"loss": loss}

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Score a batch."""
        del args, kwargs
        scored: ImageBatch = batch.update(**self.model(batch.image)._asdict())
        return scored  # type: ignore[return-value]  # anomalib's batches stand in for Lightning's mappings

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam; the learning rate drops to a tenth after 5/6 of training, however long that is ([RIAD] Sec. 4.3)."""
        optimizer = Adam(self.model.parameters(), lr=self.lr)
        schedule = LambdaLR(optimizer, lambda step: 1.0 if self._progress(step) < LR_DROP_AT else 0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _progress(self, step: int) -> float:
        """Return the share of training that is over, by whichever limit is nearer: epochs, steps or time."""
        progress = step / max(self.trainer.estimated_stepping_batches, 1)
        for timer in _callbacks(self.trainer):
            if isinstance(timer, Timer) and (remaining := timer.time_remaining()) is not None:
                elapsed = timer.time_elapsed()
                progress = max(progress, elapsed / (elapsed + remaining))
        return progress

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
            ValueError: If the model has no thresholds.
        """
        self._check_thresholds()
        return super().to_onnx(*args, **{"opset_version": 18, "verbose": False, **kwargs})

    def _check_thresholds(self) -> None:
        """Refuse to export verdicts that a model cannot give; what it learnt does not tell: networks differ."""
        post_processor: Any = self.post_processor
        if not getattr(post_processor, "enable_thresholding", False):
            return
        if torch.as_tensor(post_processor.image_threshold).isnan():
            msg = (
                "the model to export has no thresholds, without which every verdict is meaningless: a validation finds "
                "them. Give a checkpoint (--ckpt_path) of a training with validation (no limit_val_batches 0), call "
                "Engine.validate before Engine.export, or export the bare anomaly map and score (post_processor=False)"
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
        """Quantize the network alone, with ranges from normal training images; anomalib would take everything."""
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
        size = (shape[2].get_length(), shape[3].get_length()) if shape[2].is_static else self.model.image_size
        resize = Resize(size, antialias=True)
        images = normal_images(datamodule.train_data, resize)
        if compression_type == CompressionType.INT8_PTQ:
            return quantize(model, images)
        return quantize_with_accuracy_control(model, images, _augmented(datamodule.val_data, resize), metric, max_drop)

    def _differences(self, checkpoint: dict[str, Any], *names: str) -> str:
        """Say which of these arguments are others in a checkpoint than here."""
        saved = checkpoint.get("hyper_parameters", {})
        return " and ".join(
            f"{name} is {saved[name]} there and {self.hparams[name]} here"
            for name in names
            if name in saved and _plain(saved[name]) != _plain(self.hparams[name])
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the checkpoint's pre-processing and refuse the weights of another network.

        Raises:
            ValueError: If the checkpoint's network has another width or other skips than this model.
        """
        if misfits := self._differences(checkpoint, "base_width", "skip_connections"):
            msg = (
                f"the checkpoint holds another network: {misfits}; build the model with the checkpoint's "
                "values, or use Riad.load_from_checkpoint, which takes them over by itself"
            )
            raise ValueError(msg)
        scoring = (
            "region_sizes",
            "num_disjoint_sets",
            "score_function",
            "calibration",
            "smoothing_size",
            "num_partitions",
            "partition_seed",
        )
        if misfits := self._differences(checkpoint, *scoring):
            logger.warning("The checkpoint's thresholds are for other scores than this model's: %s.", misfits)
        super().on_load_checkpoint(checkpoint)
        self._smooth_exports()
        size_before = self.image_size
        size = self._size_after_pre_processor(size_before)
        if size == size_before:
            return
        logger.warning("Images are resized to %dx%d as in the checkpoint, not to %dx%d.", *size, *size_before)
        self.model.set_image_size(size)
        # anomalib hands a data module the Resize of the pre-processor before the checkpoint replaces it. Without
        # another hand-over images would be resized twice, first to the size that is no longer in use.
        datamodule = getattr(self._trainer, "datamodule", None)
        if datamodule is not None:
            datamodule.setup(self.trainer.state.fn)
