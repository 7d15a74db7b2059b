"""I3AD as a model of anomalib."""

from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam

from riad_anomalib.components.arguments import check_positive
from riad_anomalib.components.variation import Variation, plain_strengths
from riad_anomalib.host.length import step_schedule
from riad_anomalib.host.module import HostMixin
from riad_anomalib.host.pre_processing import height_and_width
from riad_anomalib.host.region import read_region
from riad_anomalib.host.video import check_past_frames

from .discriminator import Discriminator
from .loss import I3adLoss
from .torch_model import I3adModel

# CHOICE [I3AD] Sec. 3.1: the paper tells of no drop; this is RIAD's recipe.
LR_DROP_AT = 5 / 6
"""Share of training after which the learning rates drop to a tenth."""
DISCRIMINATOR_LR = 4.0
"""The discriminator's learning rate beside the generator's ([I3AD] Sec. 3.1: 4e-4 and 1e-4)."""
# CHOICE [I3AD] Sec. 3.1: the paper names Adam alone; these are of Zhang et al. 2019.
BETAS = (0.5, 0.9)


class I3ad(HostMixin, AnomalibModule):
    """Iterative inpainting with a structural-similarity mask ([I3AD]).

    A generator learns to paint what was removed from normal images. An image is then taken apart by checkerboards and
    painted, and again and again removed and painted where it still differs from what was painted: what is normal comes
    back as context, what is not never resembles it. Trained on normal images only. Without a given length, training
    takes 300 epochs; the paper's 500,000 steps are ``max_steps``.

    Args:
        adversarial_weight: Weight of the adversarial loss, at least 0. 0 trains without a discriminator; its
            checkpoints are of another network.
        iterations: Rounds of the iteration, at least 1; the paper has 30. An image costs 3 passes of the generator more
            than there are rounds; exports have all of them.
        patch_size: Side length of the first round's squares, in pixels.
        mask_threshold: Difference in [0, 1], half of 1 - SSIM, from which on a pixel is removed again. None for the
            smallest of 0.05, 0.10 to 0.50 at which at most a thousandth of 40 training images' pixels stays removed,
            found before every validation of a training.
        score_function: How image and reconstruction are compared for the map: ``"ssim"`` or ``"squared"``.
        image_score: The image's score: the ``"max"`` of its map, or the ``"mean"``.
        calibration: ``"none"`` (paper), or ``"pixel"`` for what exceeds the mean of 40 training images at that pixel,
            the more the less they vary there. Gathered before every validation of a training.
        smoothing_size: Side length of the mean filter over the anomaly map: an odd number of pixels, or a share of the
            image's shorter side in (0, 1).
        region: Path of a picture, white where products are inspected, of any size, drawn over a picture as it comes
            from the camera: nothing else is scored. None for everywhere. Checkpoints and exports hold it.
        past_frames: Over how many frames of a video a score is averaged, its own the last; images never see it.
        false_alarms: Rate of false alarms in (0, 1) to find thresholds at; None: best F1, 0.01 of good pictures alone.
        base_width: Filters b of the generator's first layer, a multiple of 4. Half the width costs a quarter.
        attention: Whether the generator's fine stage has self-attention.
        coarse: Whether the generator has a coarse stage; without it an image costs about half.
        registration: ``"none"`` (paper), or what brings each image to the light and place of 40 normal ones before the
            network sees it: ``"light"`` (gain, offset and slope), ``"position"`` (shifts and small turns too), or
            ``"auto"``: position where products lie alike, else nothing. Training stays as it is; gathered as
            ``calibration``.
        variation: How light and position vary from picture to picture on the line: strengths by the names of
            :class:`~riad_anomalib.components.variation.Variation`, for example ``{brightness: 0.1, degrees: 2}``. Each
            training image is varied, and so are the normal images of ``calibration``. None is the paper's.
        lr: Learning rate of the generator's Adam; the discriminator's is 4 times that; a tenth for the last sixth of
            training.
        image_size: Height and width that images are resized to, or one number for both, multiples of 4. A
            ``pre_processor`` that resizes wins over it.
        pre_processor: Pre-processor, or whether to use the default (resize to ``image_size``; no normalisation: the
            network's output is in [0, 1]).
        post_processor: Post-processor, or whether to use the default, ``VerdictPostProcessor``.
        evaluator: Evaluator, or whether to use anomalib's default.
        visualizer: Visualizer, or whether to use anomalib's default.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    default_image_size = (256, 256)  # CHOICE [I3AD] Sec. 3.1: no size is given; this is its baselines' for objects.
    default_epochs = 300  # DEVIATES [I3AD] Sec. 3.1: the paper's 500,000 steps depend on the number of images.
    network_arguments = ("base_width", "attention", "coarse")
    network_switches = ("adversarial_weight",)
    scoring_arguments = (
        "iterations",
        "patch_size",
        "mask_threshold",
        "score_function",
        "image_score",
        "calibration",
        "registration",
        "smoothing_size",
        "past_frames",
    )
    model: I3adModel
    loss: I3adLoss

    def __init__(
        self,
        adversarial_weight: float = 0.1,  # CHOICE [I3AD] Sec. 2.2: the losses' weights are left open.
        iterations: int = 10,  # DEVIATES [I3AD] Sec. 3.1: the paper has 30, at three times the cost.
        patch_size: int = 6,
        mask_threshold: float | None = None,
        score_function: str = "ssim",
        image_score: str = "max",
        calibration: str = "none",
        # CHOICE [I3AD] Sec. 3: the paper does not smooth, or does not say so; this is RIAD's.
        smoothing_size: int | float = 21,  # noqa: PYI041  # jsonargparse would turn 21 into 21.0
        past_frames: int = 3,
        false_alarms: float | None = None,
        base_width: int = 48,
        attention: bool = True,
        coarse: bool = True,
        registration: str = "none",
        variation: dict[str, float] | None = None,
        lr: float = 1e-4,
        image_size: tuple[int, int] | int = default_image_size,
        region: str | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Lightning saves the arguments as they stand when super().__init__ runs: plain ones, which torch.load takes.
        variation = plain_strengths(variation)
        image_size = height_and_width(image_size)
        check_positive("lr", lr, paper="1e-4")
        mask = read_region(region)
        past_frames = check_past_frames(past_frames)
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
        self.loss = I3adLoss(adversarial_weight)
        self.model = I3adModel(
            channels=3,  # anomalib reads every file, grey ones too, as RGB
            image_size=self.adopt_pre_processor(pre_processor, image_size),
            base_width=base_width,
            attention=attention,
            coarse=coarse,
            iterations=iterations,
            patch_size=patch_size,
            mask_threshold=mask_threshold,
            score_function=score_function,
            image_score=image_score,
            calibration=calibration,
            registration=registration,
            region=mask,
            smoothing_size=smoothing_size,
        )
        self.discriminator = Discriminator(self.model.channels, base_width) if adversarial_weight else None

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Paint what random masks remove from a batch of normal images, and judge it ([I3AD] Sec. 2.2)."""
        del args, kwargs
        image: Tensor = batch.image  # type: ignore[assignment]
        removed, painted = self.model(image)
        terms = self.loss.terms(painted, image, removed, self.discriminator)
        loss = self.loss.weigh(terms)
        logged = {f"train_{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_epoch=True, batch_size=len(image), sync_dist=True)
        self.log("train_loss", loss.detach(), on_epoch=True, prog_bar=True, batch_size=len(image), sync_dist=True)
        return {"loss": loss}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its learning rates a player's own; they drop to a tenth after 5/6 of training, however long that is."""
        # CHOICE [I3AD] Sec. 3.1: both players move at once. Adam works on each weight by itself, so that one of two
        # groups is the paper's two; a step of Lightning's stays a batch, its clipping, accumulation, mixed precision
        # and distributed training stay automatic.
        players: list[dict[str, Any]] = [{"params": list(self.model.parameters())}]
        if self.discriminator is not None:
            players.append({"params": list(self.discriminator.parameters()), "lr": DISCRIMINATOR_LR * self.lr})
        return step_schedule(self, Adam(players, lr=self.lr, betas=BETAS), LR_DROP_AT)

    def on_validation_start(self) -> None:
        """Choose the threshold of the mask, which all further statistics depend on, and gather these."""
        if self.model.mask_threshold is None and self.trainer.state.fn == TrainerFn.FITTING:
            self.gather_registration()
            self.model.choose_threshold(self._share_removed)
        super().on_validation_start()

    def _share_removed(self, threshold: float) -> float:
        """Return the share of normal images' pixels that stays removed."""
        mean, _ = self.normal_statistics(lambda image: self.model.still_removed(image, threshold))
        return mean.item()

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export without the discriminator, which scores nothing and could not be saved with its module."""
        discriminator, self.discriminator = self.discriminator, None
        try:
            return super().to_torch(export_root, model_file_name)
        finally:
            self.discriminator = discriminator
