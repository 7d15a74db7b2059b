"""SSAE as a torch module: one pass of the untouched image, and what it changed ([SSAE] Sec. 3)."""

import logging
from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from riad_anomalib.components.arguments import check_choice, check_images, whole_number
from riad_anomalib.components.batching import in_parts, in_strips, rows_in
from riad_anomalib.components.calibration import CALIBRATIONS, Calibration
from riad_anomalib.components.native import cut_back, enlarged, padded, shrunk
from riad_anomalib.components.region import Region, smooth_inside
from riad_anomalib.components.registration import Registration
from riad_anomalib.components.sdc import STRIDE, FilteringAutoEncoder, check_image_size
from riad_anomalib.components.smoothing import check_smoothing_size, mean_filter, window_size

from .anomaly_map import IMAGE_SCORES, SCORE_FUNCTIONS
from .loss import OBJECTIVES

logger = logging.getLogger(__name__)

SCALES = (1.0, 0.5, 0.25)
"""What ``scale`` takes."""


class SsaeModel(nn.Module):
    """Self-supervised filtering auto-encoder ([SSAE] Fig. 3).

    In training mode it repairs corrupted images, which the training step makes, and returns reconstructions for the
    loss; in evaluation mode it takes images as they are and returns an anomaly map and score. The defaults of these
    arguments stand in :class:`riad_anomalib.Ssae`.

    Args:
        channels: Channels C of the images.
        image_size: Height and width of the images, multiples of 8; None for images of any size.
        scale: Size at which images of any size are seen, one of :data:`SCALES`; maps have the images' size.
        memory: MiB that the network may take for an image of any size, which is then seen in strips; None for one pass.
        objective: What the networks are trained to: ``"filter"``, ``"amplify"``, or ``"ensemble"``, one for each.
        base_width: Channels b of the network's first level.
        kernel_size: Side length f of the dilated kernels, odd.
        dilations: Dilations of the parallel convolutions.
        score_function: How image and reconstruction are compared, a key of :data:`SCORE_FUNCTIONS`.
        image_score: The image's score, a key of :data:`IMAGE_SCORES`.
        smoothing_size: Side length k of the mean filter: an odd number of pixels, or a share of the image's shorter
            side in (0, 1), which images of any size have not.
        smoothing_repeats: How often n the map is filtered.
        calibration: ``"none"``, ``"pixel"``, ``"auto"`` or ``"avgmap"``.
        avgmap_power: Power t of ``"avgmap"``.
        registration: ``"none"``, ``"light"``, ``"position"`` or ``"auto"``.
        region: True where images are inspected, ``(h, w)``; None for everywhere.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    def __init__(
        self,
        *,
        channels: int,
        image_size: tuple[int, int] | None,
        scale: float,
        memory: int | None,
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
        region: Tensor | None,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, OBJECTIVES)
        check_choice("score_function", score_function, SCORE_FUNCTIONS)
        check_choice("image_score", image_score, IMAGE_SCORES)
        check_smoothing_size(smoothing_size)
        if whole_number("smoothing_repeats", smoothing_repeats) < 0:
            msg = f"smoothing_repeats is {smoothing_repeats}: it must be at least 0, which leaves the map as it is"
            raise ValueError(msg)
        if image_size is None:
            calibration = _check_any_size(smoothing_size, calibration, registration)
        elif scale != 1 or memory is not None:
            msg = f"scale is {scale} and memory {memory}: both are for pictures in their own size, image_size null"
            raise ValueError(msg)
        check_choice("scale", scale, SCALES)  # type: ignore[arg-type]
        if memory is not None and (whole_number("memory", memory) < 1 or image_score != "max"):
            msg = f"memory is {memory}, image_score {image_score!r}: strips need a positive number of MiB, and 'max'"
            raise ValueError(msg)
        self.channels = channels
        self.shrinks_by = round(1 / scale)
        self.memory = memory
        self.base_width = base_width
        self.dilations = tuple(dilations)
        self.score_function = score_function
        self.image_score = image_score
        self.smoothing_size = smoothing_size
        self.smoothing_repeats = smoothing_repeats
        self.calibration = Calibration(calibration, (*CALIBRATIONS, "auto", "avgmap"), avgmap_power)
        self.registration = Registration(registration)
        self.region = Region(region)
        self.networks = nn.ModuleList(
            FilteringAutoEncoder(channels, base_width, kernel_size, dilations) for _ in OBJECTIVES[objective]
        )
        self.set_image_size(image_size)

    def set_image_size(self, image_size: tuple[int, int] | None) -> None:
        """Take images of this height and width from now on, None for any.

        Raises:
            ValueError: If the size does not fit the network.
        """
        if image_size is not None:
            check_image_size(image_size, self.dilations)
        self.image_size = image_size
        self.calibration.forget()
        self.registration.forget()

    def forward(self, image: Tensor) -> Tensor | InferenceBatch:
        """Repair (training) or score (evaluation) a batch.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``: corrupted and as the network sees it in training, where crops come
                too, with sides that are multiples of 8.

        Returns:
            In training mode each network's reconstruction in [0, 1], ``(N, M, C, H, W)``; in evaluation mode
            ``anomaly_map (N, 1, H, W)`` and ``pred_score (N,)``, in [0, 1], float32.

        Raises:
            ValueError: If the batch has another shape than the model was built for.
        """
        if self.training:
            check_images(image, self.channels, self._crop_of(image))
            return self.reconstructions(image)
        check_images(image, self.channels, self.image_size or (image.shape[-2], image.shape[-1]))
        inside = self.region.inside(image)
        registered, motion = self.registration(self.seen(image))
        values_map = self.registration.back(self.calibration(self.dissimilarity_map(registered)), motion)
        smoothed = smooth_inside(values_map, None if inside is None else self.seen(inside), self.smooth)
        values_map = self.calibration.after_smoothing(smoothed, self.smooth).amax(dim=1, keepdim=True)  # (N, 1, H, W)
        values_map = self.as_it_came(values_map, image)
        if inside is not None:
            values_map = inside * values_map
        return InferenceBatch(anomaly_map=values_map, pred_score=IMAGE_SCORES[self.image_score](values_map, inside))

    def seen(self, image: Tensor) -> Tensor:
        """Return images as the network sees them: those of any size shrunk, and padded to its stride."""
        return image if self.image_size else shrunk(padded(image, STRIDE * self.shrinks_by), self.shrinks_by)

    def as_it_came(self, values_map: Tensor, image: Tensor) -> Tensor:
        """Return maps of what :meth:`seen` returned in the size of the images themselves."""
        return values_map if self.image_size else cut_back(enlarged(values_map, self.shrinks_by), image)

    def _crop_of(self, image: Tensor) -> tuple[int, int]:
        """Return the size of training images if they may be crops, else that of whole ones."""
        height, width = image.shape[-2:]
        most = self.image_size or (max(height, STRIDE), max(width, STRIDE))
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
        return self.as_it_came(self._run(self.networks[0], self.seen(image)), image)

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
        size = window_size(self.smoothing_size, self.image_size or (0, 0))  # of any size it is a number of pixels
        return mean_filter(values_map, size, self.smoothing_repeats)

    def _run(self, network: nn.Module, image: Tensor) -> Tensor:
        """Run a network; in training batch norm looks at the whole batch."""
        if self.training:
            made: Tensor = network(image)
            return made
        if self.memory is None:
            made = in_parts(network, image, self.base_width)
        else:
            rows = rows_in(self.memory, self.base_width, image.shape[-1])
            made = in_strips(lambda strip: in_parts(network, strip, self.base_width), image, rows, STRIDE)
        # Of any size, export cannot tell that halving sides thrice and doubling them thrice leaves a multiple of 8.
        return made if self.image_size else cut_back(made, image)


def _check_any_size(smoothing_size: float, calibration: str, registration: str) -> str:
    """Refuse what images need one size for, and return the calibration that they have."""
    if isinstance(smoothing_size, float):
        msg = (
            f"smoothing_size is {smoothing_size}, a share of the image's side, and pictures in their own size have no "
            "common one: give an odd number of pixels, for example 9"
        )
        raise ValueError(msg)
    for name, value, allowed in (
        ("calibration", calibration, ("none", "auto")),
        ("registration", registration, ("none",)),
    ):
        if value not in allowed:
            msg = (
                f"{name} is {value!r}, which is gathered at the pixels of one size, and image_size is null: set "
                f"{name} to 'none', or give an image_size"
            )
            raise ValueError(msg)
    if calibration == "auto":
        logger.warning("Not calibrated: pictures in their own size need not lie pixel on pixel.")
    return "none"
