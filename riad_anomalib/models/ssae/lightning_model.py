"""SSAE as a model of anomalib."""

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

from riad_anomalib.components.arguments import check_positive, finite_number, one_or_more, plain_list, whole_number
from riad_anomalib.components.corruption import (
    DISPLACEMENT,
    PATCH_SIZE,
    augment,
    check_augmentation,
    check_corruptions,
    check_turns,
    corrupt,
    random_crop,
)
from riad_anomalib.components.native import random_windows, shrunk
from riad_anomalib.components.sdc import STRIDE, check_image_size
from riad_anomalib.components.variation import Variation, plain_strengths
from riad_anomalib.host.length import progress, step_schedule
from riad_anomalib.host.module import HostMixin
from riad_anomalib.host.pre_processing import height_and_width
from riad_anomalib.host.region import read_region
from riad_anomalib.host.video import check_past_frames

from .loss import SsaeLoss
from .torch_model import SsaeModel

# CHOICE [SSAE] Sec. 4.1: the paper gives the learning rate that training starts with; that it drops is RIAD's recipe.
LR_DROP_AT = 5 / 6
"""Share of training after which the learning rate drops to a tenth."""


class Ssae(HostMixin, AnomalibModule):
    """Self-supervised filtering auto-encoder ([SSAE], Bauer et al. 2022).

    Parts of normal images are deformed, and an auto-encoder learns to undo that and nothing else. Images are then taken
    as they are, in one pass, and what the network changed is the anomaly map. Trained on normal images only. The
    defaults are the paper's, where it gives any; without a given length, training takes 300 epochs.

    Args:
        objective: ``"filter"`` repairs what is anomalous (Eq. 1), ``"amplify"`` spoils it further (Eq. 4),
            ``"ensemble"`` is a network for each, with the pixel-wise maximum of their maps, at twice the cost.
        corrupted_weight: Weight lambda in [0, 1] of what was corrupted; what was not has the rest. Each part is divided
            by its own area, so at 0.5 the few pixels of patches count as much as all others together, and the network
            blurs where it cannot tell; less is sharper and repairs less.
        corruptions: How parts are corrupted, a list of ``"elastic"``, ``"occlusion"``, ``"zeros"`` and ``"rotation"``.
        num_patches: Most deformed patches of an image.
        patch_size: Least and greatest half-axis of a deformed patch, as shares of the image's shorter side.
        displacement: Least and greatest strength (root mean square) of a deformation, as shares of the shorter side.
        brightness: Greatest change of a patch's brightness, in [0, 1].
        augmentation: How normal images vary: ``"none"``, ``"flips"``, or ``"dihedral"``, turns by 90 degrees too.
        registration: ``"none"`` (paper), or what brings each image to the light and place of 40 normal ones before the
            network sees it: ``"light"`` (gain, offset and slope), ``"position"`` (shifts and small turns too), or
            ``"auto"``: position where products lie alike, else nothing. Training stays as it is; gathered as
            ``calibration``.
        variation: How light and position vary from picture to picture on the line: strengths by the names of
            :class:`~riad_anomalib.components.variation.Variation`, for example ``{brightness: 0.1, degrees: 2}``. Each
            training image is varied, and so are the normal images of ``calibration``. None is the paper's.
        crop_scales: Shares of the image's sides that training sees, each for an equal part of it, in order.
        score_function: How image and reconstruction are compared: ``"squared"`` or ``"ssim"``.
        smoothing_size: Side length k of the mean filter over the anomaly map: an odd number of pixels, or a share of
            the image's shorter side in (0, 1); 0.04 is 21 pixels at 512, 11 at 256, 5 at 128.
        smoothing_repeats: How often n the map is filtered.
        image_score: The image's score: the ``"mean"`` of its map (paper) or the ``"max"``, which sees small defects.
        calibration: ``"none"``, ``"avgmap"`` (the paper's for objects: where normal images' maps are bright counts
            less), ``"pixel"``: what exceeds the mean of 40 training images at that pixel, the more the less they vary
            there, or ``"auto"``: that where these images show that products lie alike, else nothing; the log says
            which. Gathered before every validation of a training.
        avgmap_power: Power t of ``"avgmap"``.
        base_width: Channels b of the network's first level. Half the width costs a quarter.
        kernel_size: Side length f of the dilated kernels, 3 or 5 in the paper.
        dilations: Dilations of the network's parallel convolutions; those of an eighth of the image's side or more
            reach nothing.
        lr: Learning rate of Adam; a tenth of it for the last sixth of training.
        image_size: Height and width that images are resized to, or one number for both, multiples of 8. A
            ``pre_processor`` that resizes wins over it. None leaves pictures in their own size, which may differ:
            training needs a ``crop_size`` then, ``smoothing_size`` is in pixels, and there is no calibration.
        crop_size: Height and width of the random crops that training sees, or one number for both, multiples of 8; None
            for whole images. All else sees whole ones.
        scale: Size at which the network sees pictures in their own size: 1, 0.5 or 0.25. ``crop_size`` and
            ``smoothing_size`` are of pixels that it sees, maps are of the picture's.
        memory: MiB that the network may take for a picture in its own size, which is seen in strips where that is not
            enough for all of it; None for one pass.
        region: Path of a picture, white where products are inspected, of any size, drawn over a picture as it comes
            from the camera: nothing else is scored. None for everywhere. Checkpoints and exports hold it.
        past_frames: Over how many frames of a video a score is averaged, its own the last; images never see it.
        false_alarms: Rate of false alarms in (0, 1) to find thresholds at; None: best F1, 0.01 of good pictures alone.
        pre_processor: Pre-processor, or whether to use the default (resize to ``image_size``; no normalisation: the
            network's output is in [0, 1]).
        post_processor: Post-processor, or whether to use the default, ``VerdictPostProcessor``.
        evaluator: Evaluator, or whether to use anomalib's default.
        visualizer: Visualizer, or whether to use anomalib's default.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    default_image_size = (512, 512)  # [SSAE] Sec. 4.1
    default_epochs = 300  # CHOICE [SSAE] Sec. 4.1: the paper gives no length; this is RIAD's.
    network_arguments = ("objective", "base_width", "kernel_size", "dilations", "scale")
    network_switches = ("image_size",)
    scoring_arguments = (
        "score_function",
        "smoothing_size",
        "smoothing_repeats",
        "image_score",
        "calibration",
        "registration",
        "avgmap_power",
        "past_frames",
    )
    model: SsaeModel
    loss: SsaeLoss

    def __init__(
        self,
        objective: str = "filter",
        corrupted_weight: float = 0.5,
        corruptions: Sequence[str] | str = ("elastic",),
        num_patches: int = 1,
        patch_size: Sequence[float] | float = PATCH_SIZE,
        displacement: Sequence[float] | float = DISPLACEMENT,
        brightness: float = 0.2,
        augmentation: str = "none",
        registration: str = "none",
        variation: dict[str, float] | None = None,
        crop_scales: Sequence[float] | float = (0.5, 0.75, 1.0),
        score_function: str = "squared",
        # CHOICE [SSAE] Eq. 3: k and n are left open, as is the power t of Eq. 14.
        smoothing_size: int | float = 0.04,  # noqa: PYI041  # jsonargparse would turn 21 into 21.0
        smoothing_repeats: int = 3,
        image_score: str = "mean",
        calibration: str = "none",
        avgmap_power: float = 1.0,
        base_width: int = 64,
        kernel_size: int = 3,
        dilations: Sequence[int] | int = (1, 2, 4, 8, 16, 32),
        lr: float = 1e-4,
        image_size: tuple[int, int] | int | None = default_image_size,
        crop_size: tuple[int, int] | int | None = None,
        scale: float = 1.0,
        memory: int | None = None,
        region: str | None = None,
        past_frames: int = 3,
        false_alarms: float | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Lightning saves the arguments as they stand when super().__init__ runs: plain ones, which torch.load takes.
        corruptions = one_or_more("corruptions", corruptions, "['elastic']")
        patch_size = plain_list("patch_size", patch_size, "[0.03, 0.2]")
        displacement = plain_list("displacement", displacement, "[0.02, 0.09]")
        check_corruptions(corruptions, num_patches, brightness, patch_size=patch_size, displacement=displacement)
        crop_scales = plain_list("crop_scales", crop_scales, "[0.5, 0.75, 1], or [1] for whole images")
        if not crop_scales or not all(0 < finite_number("crop_scales", scale) <= 1 for scale in crop_scales):
            msg = f"crop_scales is {crop_scales}: give shares of the image's sides in (0, 1], or [1] for whole images"
            raise ValueError(msg)
        dilations = [whole_number("dilations", d) for d in one_or_more("dilations", dilations, "[1, 2, 4, 8]")]
        variation = plain_strengths(variation)
        check_turns(corruptions, (variation or {}).get("degrees", 0))
        image_size = None if image_size is None else height_and_width(image_size)
        crop_size = None if crop_size is None else height_and_width(crop_size, "crop_size")
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
        image_size = self.adopt_pre_processor(pre_processor, image_size)
        check_crop_size(crop_size, image_size, dilations)
        check_augmentation(augmentation, crop_size or image_size or (1, 1), corruptions)
        self.corruptions = corruptions
        self.num_patches = num_patches
        self.patch_size = patch_size
        self.displacement = displacement
        self.brightness = brightness
        self.augmentation = augmentation
        self.crop_scales = crop_scales
        self.lr = lr
        self.past_frames = past_frames
        self.variation = Variation(**variation) if variation else None
        self.window = (round(crop_size[0] / scale), round(crop_size[1] / scale)) if crop_size else None
        self.model = SsaeModel(
            channels=3,  # anomalib reads every file, grey ones too, as RGB
            image_size=image_size,
            objective=objective,
            base_width=base_width,
            kernel_size=kernel_size,
            dilations=dilations,
            score_function=score_function,
            image_score=image_score,
            smoothing_size=smoothing_size,
            smoothing_repeats=smoothing_repeats,
            calibration=calibration,
            registration=registration,
            scale=scale,
            memory=memory,
            region=mask,
            avgmap_power=avgmap_power,
        )
        self.loss = SsaeLoss(objective, corrupted_weight)

    @property
    def crop_scale(self) -> float:
        """Share of the image's sides that training sees now ([SSAE] Sec. 3.2)."""
        # CHOICE [SSAE] Sec. 3.2: which sizes, and when they grow, is left open.
        share = progress(self.trainer, self.global_step) if self._trainer else 0.0
        scale: float = self.crop_scales[min(int(share * len(self.crop_scales)), len(self.crop_scales) - 1)]
        return scale

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Corrupt a batch of normal images, repair it, and compare with what it was ([SSAE] Secs. 3.1 and 3.2)."""
        del args, kwargs
        image: Tensor = batch.image  # type: ignore[assignment]
        if self.window is not None:
            image = shrunk(random_windows(image, self.window), self.model.shrinks_by)
        image = random_crop(augment(image, self.augmentation), self.crop_scale, STRIDE)
        corrupted, replaced = corrupt(
            image,
            self.corruptions,
            self.num_patches,
            self.brightness,
            patch_size=self.patch_size,
            displacement=self.displacement,
        )
        terms = self.loss.terms(self.model(corrupted), image, corrupted, replaced)
        loss = self.loss.weigh(terms)
        logged = {
            f"train_{name}" if len(values) == 1 else f"train_{objective}_{name}": value
            for name, values in terms.items()
            for objective, value in zip(self.loss.objectives, values.detach(), strict=True)
        }
        self.log_dict(logged, on_epoch=True, batch_size=len(image), sync_dist=True)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, batch_size=len(image), sync_dist=True)
        return {"loss": loss}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam; the learning rate drops to a tenth after 5/6 of training, however long that is."""
        return step_schedule(self, Adam(self.model.parameters(), lr=self.lr), LR_DROP_AT)


def check_crop_size(
    crop_size: tuple[int, int] | None, image_size: tuple[int, int] | None, dilations: Sequence[int]
) -> None:
    """Refuse crops that the network or the images cannot give.

    Args:
        crop_size: Height and width of the crops, None for whole images.
        image_size: Height and width of the images, None for pictures in their own size.
        dilations: Dilations of the network's parallel convolutions.

    Raises:
        ValueError: If they do not fit.
    """
    if crop_size is not None:
        check_image_size(crop_size, dilations, "crop_size")
        if image_size is not None and (crop_size[0] > image_size[0] or crop_size[1] > image_size[1]):
            msg = f"crop_size {list(crop_size)} does not fit into image_size {list(image_size)}: give less"
            raise ValueError(msg)
    elif image_size is None:
        msg = "image_size is null, which leaves pictures in their own size: give a crop_size to train on, such as 128"
        raise ValueError(msg)
