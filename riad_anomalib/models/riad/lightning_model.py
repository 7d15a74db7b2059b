"""RIAD as a model of anomalib."""

from collections.abc import Sequence
from typing import Any

from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam

from riad_anomalib.components.arguments import check_positive, one_or_more, whole_number
from riad_anomalib.components.variation import Variation, plain_strengths
from riad_anomalib.host.length import step_schedule
from riad_anomalib.host.module import HostMixin
from riad_anomalib.host.pre_processing import height_and_width
from riad_anomalib.host.region import read_region
from riad_anomalib.host.video import check_past_frames

from .loss import RiadLoss
from .torch_model import RiadModel

LR_DROP_AT = 250 / 300
"""Share of training after which the learning rate drops to a tenth ([RIAD] Sec. 4.3)."""


class Riad(HostMixin, AnomalibModule):
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
        score_function: Similarity behind the anomaly map: ``"msgms"``, ``"ssim"`` (RIAD_SSIM, Table 6),
            ``"msgms_grey"``, which compares the gradients of grey images, not of every channel, or ``"absolute"`` for
            plain differences, for objects rather than defects.
        msgms_weight: Weight lambda_G of the MSGMS loss.
        ssim_weight: Weight lambda_S of the SSIM loss.
        calibration: ``"none"`` (paper), or ``"pixel"``: the anomaly map counts what exceeds the mean of 40 training
            images at that pixel, the more the less they vary there. Gathered before every validation of a training.
        smoothing_size: Side length s_f of the mean filter over the anomaly map: an odd number of pixels, or a share of
            the image's shorter side in (0, 1); 0.08 is 21 pixels at 256, 11 at 128.
        registration: ``"none"`` (paper), or what brings each image to the light and place of 40 normal ones before the
            network sees it: ``"light"`` (gain, offset and slope), ``"position"`` (shifts and small turns too), or
            ``"auto"``: position where products lie alike, else nothing. Training stays as it is; gathered as
            ``calibration``.
        variation: How light and position vary from picture to picture on the line: strengths by the names of
            :class:`~riad_anomalib.components.variation.Variation`, for example ``{brightness: 0.1, degrees: 2}``. Each
            training image is varied, and so are the normal images of ``calibration``. None is the paper's.
        lr: Learning rate of Adam; a tenth of it for the last sixth of training.
        image_size: Height and width that images are resized to, or one number for both, multiples of 16 and of every
            region size. A ``pre_processor`` that resizes wins over it.
        num_partitions: Partitions of every region size that inference averages over; cost is proportional to it.
        partition_seed: Seed of the partitions that inference uses, in [0, 2**32).
        region: Path of a picture, white where products are inspected, of any size, drawn over a picture as it comes
            from the camera: nothing else is scored. None for everywhere. Checkpoints and exports hold it.
        past_frames: Over how many frames of a video a score is averaged, its own the last; images never see it.
        false_alarms: Rate of false alarms in (0, 1) to find thresholds at; None: best F1, 0.01 of good pictures alone.
        pre_processor: Pre-processor, or whether to use the default (resize to ``image_size``; no normalisation: a
            removed pixel is 0 and the constants of GMS and SSIM are for [0, 1]).
        post_processor: Post-processor, or whether to use the default, ``VerdictPostProcessor``.
        evaluator: Evaluator, or whether to use anomalib's default.
        visualizer: Visualizer, or whether to use anomalib's default.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    default_image_size = (256, 256)  # [RIAD] Sec. 4
    default_epochs = 300  # [RIAD] Sec. 4.3
    network_arguments = ("base_width", "skip_connections")
    scoring_arguments = (
        "region_sizes",
        "num_disjoint_sets",
        "score_function",
        "calibration",
        "registration",
        "smoothing_size",
        "num_partitions",
        "partition_seed",
        "past_frames",
    )
    model: RiadModel
    loss: RiadLoss

    def __init__(
        self,
        region_sizes: Sequence[int] | int = (2, 4, 8, 16),
        num_disjoint_sets: int = 3,
        base_width: int = 64,
        skip_connections: bool = True,
        score_function: str = "msgms",
        msgms_weight: float = 1.0,
        ssim_weight: float = 1.0,
        calibration: str = "none",
        smoothing_size: int | float = 21,  # noqa: PYI041  # jsonargparse would turn 21 into 21.0
        registration: str = "none",
        variation: dict[str, float] | None = None,
        lr: float = 1e-4,
        image_size: tuple[int, int] | int = default_image_size,
        region: str | None = None,
        num_partitions: int = 1,
        partition_seed: int = 0,
        past_frames: int = 3,
        false_alarms: float | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Lightning saves the arguments as they stand when super().__init__ runs. The benchmark runner and
        # get_model hand over OmegaConf lists, which torch.load refuses under weights_only=True.
        region_sizes = one_or_more("region_sizes", region_sizes, "[2, 4, 8, 16]", of=" of whole numbers of pixels")
        region_sizes = [whole_number("region_sizes", k) for k in region_sizes]
        variation = plain_strengths(variation)
        image_size = height_and_width(image_size)
        mask = read_region(region)
        past_frames = check_past_frames(past_frames)
        check_positive("lr", lr, paper="1e-4")
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.adopt_false_alarms(false_alarms)
        self.lr = lr
        self.past_frames = past_frames
        self.variation = Variation(**variation) if variation else None
        self.model = RiadModel(
            channels=3,  # anomalib reads every file, grey ones too, as RGB
            image_size=self.adopt_pre_processor(pre_processor, image_size),
            region_sizes=region_sizes,
            num_disjoint_sets=num_disjoint_sets,
            base_width=base_width,
            skip_connections=skip_connections,
            score_function=score_function,
            calibration=calibration,
            registration=registration,
            region=mask,
            smoothing_size=smoothing_size,
            num_partitions=num_partitions,
            partition_seed=partition_seed,
        )
        self.loss = RiadLoss(msgms_weight, ssim_weight)

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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam; the learning rate drops to a tenth after 5/6 of training, however long that is ([RIAD] Sec. 4.3)."""
        return step_schedule(self, Adam(self.model.parameters(), lr=self.lr), LR_DROP_AT)
