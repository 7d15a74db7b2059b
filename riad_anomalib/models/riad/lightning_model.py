"""RIAD as a model of anomalib."""

import logging
from collections.abc import Sequence
from copy import copy
from operator import index
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
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
from torchvision.transforms.v2 import Resize

from .loss import RiadLoss
from .torch_model import RiadModel

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_SIZE = (256, 256)
"""Height and width that images are resized to when the user gives none ([RIAD] Sec. 4)."""
DEFAULT_EPOCHS = 300
"""Length of training when the user gives none ([RIAD] Sec. 4.3)."""
LR_DROP_AT = 250 / 300
"""Share of training after which the learning rate drops to a tenth ([RIAD] Sec. 4.3)."""
CALIBRATION_IMAGES = 40
"""Training images that ``calibration="pixel"`` takes its statistics from: 20 to 180 gave the same (model card)."""


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set outside of Trainer's own class
    return callbacks


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
        score_function: Similarity behind the anomaly map: ``"msgms"``, or ``"ssim"`` (RIAD_SSIM, Table 6).
        msgms_weight: Weight lambda_G of the MSGMS loss.
        ssim_weight: Weight lambda_S of the SSIM loss.
        calibration: ``"none"`` (paper), or ``"pixel"``: the anomaly map counts what exceeds the mean of 40 training
            images at that pixel, the more the less they vary there. Gathered before every validation of a training.
        smoothing_size: Side length s_f of the mean filter over the anomaly map: an odd number of pixels, or a share of
            the image's shorter side in (0, 1); 0.08 is 21 pixels at 256, 11 at 128.
        lr: Learning rate of Adam; a tenth of it for the last sixth of training.
        image_size: Height and width that images are resized to, multiples of 16 and of every region size. A
            ``pre_processor`` that resizes wins over it.
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
        partition_seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Lightning saves the arguments as they stand when super().__init__ runs. The benchmark runner and
        # get_model hand over OmegaConf lists, which torch.load refuses under weights_only=True.
        region_sizes = [index(k) for k in region_sizes]
        if not isinstance(image_size, Sequence) or len(image_size) != 2:  # noqa: PLR2004
            msg = f"image_size is {image_size}: give height and width, for example (256, 256)"
            raise ValueError(msg)
        image_size = (index(image_size[0]), index(image_size[1]))
        if not 0 < lr < float("inf"):
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
        self.image_size = image_size
        self.lr = lr
        self.model = RiadModel(
            channels=3,  # anomalib reads every file, grey ones too, as RGB
            image_size=self._size_after_pre_processor(),
            region_sizes=region_sizes,
            num_disjoint_sets=num_disjoint_sets,
            base_width=base_width,
            skip_connections=skip_connections,
            score_function=score_function,
            calibration=calibration,
            smoothing_size=smoothing_size,
            partition_seed=partition_seed,
        )
        self.loss = RiadLoss(msgms_weight, ssim_weight)

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Return the default pre-processor: resize, and leave the values in [0, 1]."""
        return PreProcessor(Resize(image_size or DEFAULT_IMAGE_SIZE, antialias=True))

    def _probe_pre_processor(self, height: int, width: int) -> torch.Tensor:
        """Return what the pre-processor makes of a black and a white image, ``(2, 3, H, W)``."""
        probe = torch.stack([torch.zeros(3, height, width), torch.ones(3, height, width)])
        transform = getattr(self.pre_processor, "transform", None)
        return probe if transform is None else transform(probe)

    def _size_after_pre_processor(self) -> tuple[int, int]:
        """Return the height and width at which images reach the model."""
        tall, wide = (tuple(self._probe_pre_processor(*size).shape[-2:]) for size in ((192, 128), (128, 192)))
        if tall == wide:
            return tall[0], tall[1]
        if (tall, wide) == ((192, 128), (128, 192)):
            return self.image_size  # no resize: the images have this size already
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
            if isinstance(callback, SaveConfigCallback):
                callback.config["model"]["class_path"] = "riad_anomalib.Riad"
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
        if probe.min() < 0 or probe.max() > 1:
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
        if self.model.calibration != "none" and self.trainer.state.fn == TrainerFn.FITTING:
            self.model.normal_mean, self.model.normal_std = self._normal_statistics()

    def _normal_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the dissimilarity over training images, each ``(1, H, W)``."""
        loader: Any = self.trainer.train_dataloader
        val_loader: Any = self.trainer.val_dataloaders
        dataset = copy(loader.dataset)
        # The training images as validation sees images: resized to be batched, not augmented to train on.
        dataset.augmentations = val_loader.dataset.augmentations
        # Evenly spread over the training images, and over the processes of a distributed run.
        number = min(CALIBRATION_IMAGES, len(dataset))
        chosen = [i * len(dataset) // number for i in range(self.global_rank, number, self.trainer.world_size)]
        subset = Subset(dataset, chosen)
        transform = getattr(self.pre_processor, "transform", None)
        sums = torch.zeros(3, 1, *self.model.image_size, device=self.device)  # number, sum, sum of squares
        for batch in DataLoader(subset, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn):
            image = batch.image.to(self.device)
            with self.trainer.precision_plugin.val_step_context():
                values = self.model.dissimilarity_map(image if transform is None else transform(image))
            sums += torch.stack([torch.ones_like(values).sum(0), values.sum(0), values.square().sum(0)])
        count, first, second = self.trainer.strategy.reduce(sums, reduce_op="sum")
        mean = first / count
        return mean, (second / count - mean.square()).clamp(min=0).sqrt()

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

    def _differences(self, checkpoint: dict[str, Any], *names: str) -> str:
        """Say which of these arguments are others in a checkpoint than here."""
        saved = checkpoint.get("hyper_parameters", {})
        return " and ".join(
            f"{name} is {saved[name]} there and {self.hparams[name]} here"
            for name in names
            if name in saved and saved[name] != self.hparams[name]
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
            "partition_seed",
        )
        if misfits := self._differences(checkpoint, *scoring):
            logger.warning("The checkpoint's thresholds are for other scores than this model's: %s.", misfits)
        super().on_load_checkpoint(checkpoint)
        size_before, size = self.model.image_size, self._size_after_pre_processor()
        if size == size_before:
            return
        logger.warning("Images are resized to %dx%d as in the checkpoint, not to %dx%d.", *size, *size_before)
        self.model.set_image_size(size)
        # anomalib hands a data module the Resize of the pre-processor before the checkpoint replaces it. Without
        # another hand-over images would be resized twice, first to the size that is no longer in use.
        datamodule = getattr(self._trainer, "datamodule", None)
        if datamodule is not None:
            datamodule.setup(self.trainer.state.fn)
