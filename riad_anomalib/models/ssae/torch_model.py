"""SSAE as a torch module: one pass of the untouched image, and what it changed ([SSAE] Sec. 3)."""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from riad_anomalib.components.arguments import check_choice, check_images, whole_number
from riad_anomalib.components.batching import in_parts
from riad_anomalib.components.calibration import CALIBRATIONS, Calibration
from riad_anomalib.components.registration import Registration
from riad_anomalib.components.sdc import STRIDE, FilteringAutoEncoder, check_image_size
from riad_anomalib.components.smoothing import check_smoothing_size, mean_filter, window_size

from .anomaly_map import IMAGE_SCORES, SCORE_FUNCTIONS
from .loss import OBJECTIVES


class SsaeModel(nn.Module):
    """Self-supervised filtering auto-encoder ([SSAE] Fig. 3).

    In training mode it repairs corrupted images, which the training step makes, and returns reconstructions for the
    loss; in evaluation mode it takes images as they are and returns an anomaly map and score. The defaults of these
    arguments stand in :class:`riad_anomalib.Ssae`.

    Args:
        channels: Channels C of the images.
        image_size: Height and width of the images, multiples of 8.
        objective: What the networks are trained to: ``"filter"``, ``"amplify"``, or ``"ensemble"``, one for each.
        base_width: Channels b of the network's first level.
        kernel_size: Side length f of the dilated kernels, odd.
        dilations: Dilations of the parallel convolutions.
        score_function: How image and reconstruction are compared, a key of :data:`SCORE_FUNCTIONS`.
        image_score: The image's score, a key of :data:`IMAGE_SCORES`.
        smoothing_size: Side length k of the mean filter: an odd number of pixels, or a share of the image's shorter
            side in (0, 1).
        smoothing_repeats: How often n the map is filtered.
        calibration: ``"none"``, ``"pixel"``, ``"auto"`` or ``"avgmap"``.
        avgmap_power: Power t of ``"avgmap"``.
        registration: ``"none"``, ``"light"``, ``"position"`` or ``"auto"``.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    def __init__(
        self,
        *,
        channels: int,
        image_size: tuple[int, int],
        objective: str,
        base_width: int,
        kernel_size: int,
        dilations: Sequence[int],
        score_function: str,
        image_score: str,
        smoothing_size: float,
        smoothing_repeats: int,
        calibration: str,
        avgmap_power: float,
        registration: str,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, OBJECTIVES)
        check_choice("score_function", score_function, SCORE_FUNCTIONS)
        check_choice("image_score", image_score, IMAGE_SCORES)
        check_smoothing_size(smoothing_size)
        if whole_number("smoothing_repeats", smoothing_repeats) < 0:
            msg = f"smoothing_repeats is {smoothing_repeats}: it must be at least 0, which leaves the map as it is"
            raise ValueError(msg)
        self.channels = channels
        self.base_width = base_width
        self.dilations = tuple(dilations)
        self.score_function = score_function
        self.image_score = image_score
        self.smoothing_size = smoothing_size
        self.smoothing_repeats = smoothing_repeats
        self.calibration = Calibration(calibration, (*CALIBRATIONS, "auto", "avgmap"), avgmap_power)
        self.registration = Registration(registration)
        self.networks = nn.ModuleList(
            FilteringAutoEncoder(channels, base_width, kernel_size, dilations) for _ in OBJECTIVES[objective]
        )
        self.set_image_size(image_size)

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Take images of this height and width from now on.

        Raises:
            ValueError: If the size does not fit the network.
        """
        check_image_size(image_size, self.dilations)
        self.image_size = image_size
        self.calibration.forget()
        self.registration.forget()

    def forward(self, image: Tensor) -> Tensor | InferenceBatch:
        """Repair (training) or score (evaluation) a batch.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``: corrupted in training, where crops come too, with sides that are
                multiples of 8.

        Returns:
            In training mode each network's reconstruction in [0, 1], ``(N, M, C, H, W)``; in evaluation mode
            ``anomaly_map (N, 1, H, W)`` and ``pred_score (N,)``, in [0, 1], float32.

        Raises:
            ValueError: If the batch has another shape than the model was built for.
        """
        if self.training:
            check_images(image, self.channels, self._crop_of(image))
            return self.reconstructions(image)
        check_images(image, self.channels, self.image_size)
        registered, motion = self.registration(image)
        smoothed = self.smooth(self.registration.back(self.calibration(self.dissimilarity_map(registered)), motion))
        values_map = self.calibration.after_smoothing(smoothed, self.smooth).amax(dim=1, keepdim=True)  # (N, 1, H, W)
        return InferenceBatch(anomaly_map=values_map, pred_score=IMAGE_SCORES[self.image_score](values_map))

    def _crop_of(self, image: Tensor) -> tuple[int, int]:
        """Return the size of training images if they may be crops, else that of whole ones."""
        (height, width), most = image.shape[-2:], self.image_size
        is_crop = height % STRIDE == width % STRIDE == 0 and height <= most[0] and width <= most[1]
        return (height, width) if is_crop else most

    def reconstructions(self, image: Tensor) -> Tensor:
        """Return what each network makes of a batch, ``(N, M, C, H, W)``."""
        return torch.stack([self._run(network, image) for network in self.networks], dim=1)

    def reconstruction(self, image: Tensor) -> Tensor:
        """Return what the first network makes of a batch, to look at; of an ensemble it is the one that repairs.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Reconstruction in [0, 1], ``(N, C, H, W)``.
        """
        return self._run(self.networks[0], image)

    def dissimilarity_map(self, image: Tensor) -> Tensor:
        """Compare a batch with its reconstructions: the maps before calibration and smoothing ([SSAE] Eq. 2).

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Dissimilarity in [0, 1] from each network, float32, ``(N, M, H, W)``.
        """
        compare = SCORE_FUNCTIONS[self.score_function]
        return torch.cat([compare(image.float(), made) for made in self.reconstructions(image).unbind(dim=1)], dim=1)

    def smooth(self, values_map: Tensor) -> Tensor:
        """Return maps after n mean filters, ``(N, M, H, W)`` ([SSAE] Eq. 3)."""
        return mean_filter(values_map, window_size(self.smoothing_size, self.image_size), self.smoothing_repeats)

    def _run(self, network: nn.Module, image: Tensor) -> Tensor:
        """Run a network; in training batch norm looks at the whole batch."""
        made: Tensor = network(image) if self.training else in_parts(network, image, self.base_width)
        return made
