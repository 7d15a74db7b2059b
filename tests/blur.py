"""The least model: what a sibling costs. It shrinks an image, filters it with what it has learnt, and enlarges it."""

from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import Adam

from riad_anomalib.components.arguments import check_images
from riad_anomalib.components.calibration import Calibration
from riad_anomalib.components.region import Region
from riad_anomalib.components.registration import Registration
from riad_anomalib.components.smoothing import anomaly_score, mean_filter, window_size
from riad_anomalib.components.variation import Variation, plain_strengths
from riad_anomalib.host import HostMixin, height_and_width, step_schedule
from riad_anomalib.registry import register


class BlurModel(nn.Module):
    def __init__(self, image_size: tuple[int, int], kernel_size: int, factor: int, calibration: str) -> None:
        super().__init__()
        self.factor, self.calibration, self.image_size = factor, Calibration(calibration), image_size
        self.registration, self.region = Registration("none"), Region()
        self.network = nn.Conv2d(3, 3, kernel_size, padding=kernel_size // 2)

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self.calibration.forget()

    def reconstruction(self, image: Tensor) -> Tensor:
        return F.interpolate(self.network(F.avg_pool2d(image, self.factor)).float(), self.image_size, mode="bilinear")

    def dissimilarity_map(self, image: Tensor) -> Tensor:
        return (image - self.reconstruction(image)).square().mean(dim=1, keepdim=True).clamp(max=1)

    def forward(self, image: Tensor) -> Tensor | InferenceBatch:
        check_images(image, 3, self.image_size)
        if self.training:
            return self.reconstruction(image)
        values = mean_filter(self.calibration(self.dissimilarity_map(image)), window_size(0.1, self.image_size))
        return InferenceBatch(anomaly_map=values, pred_score=anomaly_score(values))


class Blur(HostMixin, AnomalibModule):
    default_image_size = (64, 64)
    default_epochs = 20
    network_arguments = ("kernel_size",)
    scoring_arguments = ("factor", "calibration")
    model: BlurModel

    def __init__(
        self,
        kernel_size: int = 3,
        factor: int = 4,
        calibration: str = "none",
        variation: dict[str, float] | None = None,
        lr: float = 0.01,
        image_size: tuple[int, int] = default_image_size,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        image_size = height_and_width(image_size)
        variation = plain_strengths(variation)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.lr = lr
        self.variation = Variation(**variation) if variation else None
        self.model = BlurModel(self.adopt_pre_processor(pre_processor, image_size), kernel_size, factor, calibration)

    def training_step(self, batch: ImageBatch, *_: object) -> STEP_OUTPUT:
        loss = F.mse_loss(self.model(batch.image), batch.image)  # type: ignore[arg-type]  # a tensor once collated
        self.log("train_loss", loss.detach(), on_epoch=True, batch_size=batch.batch_size)
        return {"loss": loss}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return step_schedule(self, Adam(self.parameters(), lr=self.lr), drop_at=5 / 6)


register(Blur)
