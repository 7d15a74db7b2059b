"""I3AD as a torch module: checkerboards first, then what still differs, then the map ([I3AD] Sec. 2)."""

import logging
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from riad_anomalib.components.arguments import check_choice, check_images, finite_number, whole_number
from riad_anomalib.components.batching import in_parts
from riad_anomalib.components.calibration import Calibration
from riad_anomalib.components.masking import blobs, brush_strokes, checkerboards
from riad_anomalib.components.region import Region, smooth_inside
from riad_anomalib.components.registration import Registration
from riad_anomalib.components.similarity import squared_difference, ssim_difference
from riad_anomalib.components.smoothing import (
    anomaly_score,
    check_smoothing_size,
    mean_filter,
    mean_score,
    window_size,
)

from .generator import Generator, check_image_size
from .iteration import Round, iterate

logger = logging.getLogger(__name__)

SCORE_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ssim": ssim_difference,
    "squared": squared_difference,
}
"""Difference maps by the name that ``score_function`` takes."""

# CHOICE [I3AD] Sec. 3.1: what of the map is an image's score is left open.
IMAGE_SCORES: dict[str, Callable[..., Tensor]] = {"max": anomaly_score, "mean": mean_score}
"""Scores of an anomaly map by the name that ``image_score`` takes."""

# CHOICE [I3AD] Sec. 3.1: the paper takes the smallest of 0.10 to 0.50, on another scale, at which normal images' L1 is
# "less than the order of 10"; here, the smallest at which hardly a pixel of them stays removed.
THRESHOLDS = tuple(step / 20 for step in range(1, 11))
"""Thresholds of the mask to choose from."""
MOST_REMOVED = 0.001
"""Greatest share of normal images' pixels that still differ by the threshold after the last round."""


class Inpainting(NamedTuple):
    """What a training step paints."""

    removed: Tensor
    """True where pixels were painted, ``(N, 1, H, W)``."""
    painted: tuple[Tensor, ...]
    """What each stage made of the whole image, each ``(N, C, H, W)``."""


class I3adModel(nn.Module):
    """Iterative inpainting with a structural-similarity mask ([I3AD] Sec. 2).

    In training mode it paints what random masks remove, for the loss; in evaluation mode it iterates and returns an
    anomaly map and score. The defaults of these arguments stand in :class:`riad_anomalib.I3ad`.

    Args:
        channels: Channels C of the images.
        image_size: Height and width of the images, multiples of 4.
        base_width: Filters b of the generator's first layer, a multiple of 4.
        attention: Whether the generator's fine stage has self-attention.
        coarse: Whether the generator has a coarse stage.
        iterations: Rounds of the iteration, at least 1.
        patch_size: Side length of the first masks' squares, in pixels.
        mask_threshold: Difference u in [0, 1] from which on a pixel is removed again; None for one that
            :meth:`choose_threshold` finds.
        score_function: How image and reconstruction are compared for the map, a key of :data:`SCORE_FUNCTIONS`.
        image_score: The image's score, a key of :data:`IMAGE_SCORES`.
        calibration: ``"none"``, or ``"pixel"`` for a map relative to normal images' mean and standard deviation.
        registration: ``"none"``, ``"light"``, ``"position"`` or ``"auto"``.
        region: True where images are inspected, ``(h, w)``; None for everywhere.
        smoothing_size: Side length of the mean filter: an odd number of pixels, or a share of the image's shorter side
            in (0, 1).

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    boards: Tensor
    chosen_threshold: Tensor

    def __init__(
        self,
        *,
        channels: int,
        image_size: tuple[int, int],
        base_width: int,
        attention: bool,
        coarse: bool,
        iterations: int,
        patch_size: int,
        mask_threshold: float | None,
        score_function: str,
        image_score: str,
        calibration: str,
        registration: str,
        region: Tensor | None,
        smoothing_size: float,
    ) -> None:
        super().__init__()
        if whole_number("iterations", iterations) < 1:
            msg = f"iterations is {iterations}: it must be at least 1, the paper's is 30"
            raise ValueError(msg)
        if mask_threshold is not None and not 0 <= finite_number("mask_threshold", mask_threshold) <= 1:
            msg = f"mask_threshold is {mask_threshold}: it must be in [0, 1], or None to choose it from normal images"
            raise ValueError(msg)
        check_choice("score_function", score_function, SCORE_FUNCTIONS)
        check_choice("image_score", image_score, IMAGE_SCORES)
        check_smoothing_size(smoothing_size)
        self.channels = channels
        self.base_width = base_width
        self.iterations = iterations
        self.patch_size = whole_number("patch_size", patch_size)
        self.mask_threshold = mask_threshold
        self.score_function = score_function
        self.image_score = image_score
        self.calibration = Calibration(calibration)
        self.registration = Registration(registration)
        self.region = Region(region)
        self.smoothing_size = smoothing_size
        self.generator = Generator(channels, base_width, attention=attention, coarse=coarse)
        # Empty until it is chosen: a number that stood in for it would iterate, wrongly and in silence.
        self.register_buffer("chosen_threshold", torch.empty(0))
        self.set_image_size(image_size)

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Take images of this height and width from now on.

        Raises:
            ValueError: If the size fits neither the network nor the squares.
        """
        check_image_size(image_size)
        height, width = image_size
        if not 1 <= self.patch_size < min(image_size):
            msg = (
                f"patch_size is {self.patch_size}: squares must be at least 1 pixel wide, and smaller than the image "
                f"({height}x{width}), the paper's are 6"
            )
            raise ValueError(msg)
        self.image_size = image_size
        # Not persistent: its shape follows the image size, and it can be drawn again from the arguments.
        boards = checkerboards(height, width, self.patch_size).to(self.chosen_threshold.device)
        self.register_buffer("boards", boards, persistent=False)
        self.chosen_threshold = torch.empty(0, device=boards.device)
        self.calibration.forget()
        self.registration.forget()

    @property
    def threshold(self) -> float | Tensor:
        """Difference u from which on a pixel is removed again: given, or else chosen.

        Raises:
            ValueError: If it is neither.
        """
        if self.mask_threshold is not None:
            return self.mask_threshold
        if self.chosen_threshold.numel() == 0:
            msg = (
                "mask_threshold is None, and none has been chosen: that is done from normal images before each "
                "validation of a training; train with validation, load a checkpoint of such a training, or give one"
            )
            raise ValueError(msg)
        return self.chosen_threshold

    def forward(self, image: Tensor) -> Inpainting | InferenceBatch:
        """Paint what is removed at random (training) or score (evaluation) a batch.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            In training mode an :class:`Inpainting`; in evaluation mode ``anomaly_map (N, 1, H, W)`` and ``pred_score
            (N,)``, in [0, 1], float32.

        Raises:
            ValueError: If the batch has another shape than the model was built for, or no threshold is known.
        """
        check_images(image, self.channels, self.image_size)
        if self.training:
            removed = self.random_removed(len(image), image.device)
            return Inpainting(removed, self.generator(image, removed))
        registered, motion = self.registration(image)
        values_map = self.registration.back(self.calibration(self.dissimilarity_map(registered)), motion)
        window, inside = window_size(self.smoothing_size, self.image_size), self.region.inside(values_map)
        values_map = smooth_inside(values_map, inside, lambda values: mean_filter(values, window))
        return InferenceBatch(anomaly_map=values_map, pred_score=IMAGE_SCORES[self.image_score](values_map, inside))

    def random_removed(self, batch_size: int, device: torch.device) -> Tensor:
        """Draw a mask for each image: brush strokes, or one such as inference will meet ([I3AD] Sec. 3.1).

        Returns:
            True where pixels are removed, bool, ``(N, 1, H, W)``.
        """
        # CHOICE [I3AD] Sec. 3.1: the paper trains with strokes alone, and meets squares and regions at inference. Half
        # of the masks are strokes, a quarter one of the checkerboards, a quarter blobs.
        height, width = self.image_size
        strokes = brush_strokes(batch_size, height, width, device)
        board = self.boards[torch.randint(len(self.boards), (batch_size,), device=device)]
        kind = torch.rand(batch_size, 1, 1, 1, device=device)
        regular = torch.where(kind < 0.75, board, blobs(batch_size, height, width, device))  # noqa: PLR2004
        return torch.where(kind < 0.5, strokes, regular)  # noqa: PLR2004

    def paint(self, image: Tensor, removed: Tensor) -> Tensor:
        """Return what the generator's last stage makes of images, ``(N, C, H, W)``."""
        image = image.to(next(self.generator.parameters()).dtype)
        return in_parts(lambda *part: self.generator(*part)[-1], image, self.base_width, removed)

    def rounds(self, image: Tensor, iterations: int | None = None, threshold: float | None = None) -> list[Round]:
        """Iterate on a batch, to look at or to choose from.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.
            iterations: Number of rounds; the model's without.
            threshold: Difference from which on a pixel is removed again; the model's without.
        """
        iterations = iterations or self.iterations
        # The first round has no use for it: with one, images are scored without any threshold.
        u = 1.0 if iterations == 1 else self.threshold if threshold is None else threshold
        return iterate(self.paint, image.float(), self.boards, u, iterations)

    def reconstruction(self, image: Tensor) -> Tensor:
        """Return what the last round made of a batch, to look at.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Reconstruction in [0, 1], ``(N, C, H, W)``.
        """
        return self.rounds(image)[-1].reconstruction

    def dissimilarity_map(self, image: Tensor) -> Tensor:
        """Compare a batch with the last round's reconstructions: the map before calibration and smoothing.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Dissimilarity in [0, 1], float32, ``(N, 1, H, W)``.
        """
        return SCORE_FUNCTIONS[self.score_function](image.float(), self.reconstruction(image).float())

    def still_removed(self, image: Tensor, threshold: float) -> Tensor:
        """Return the share of each image that would be removed once more after the last round, ``(N,)``."""
        reconstruction = self.rounds(image, threshold=threshold)[-1].reconstruction
        removed = ssim_difference(image.float(), reconstruction) >= threshold
        return removed.float().mean(dim=(1, 2, 3))

    def choose_threshold(self, share_removed: Callable[[float], float]) -> None:
        """Choose the smallest of :data:`THRESHOLDS` at which normal images come back; the greatest if none does.

        Args:
            share_removed: From a threshold to the share of normal images' pixels that stays removed; it falls as the
                threshold rises.
        """
        index = bisect_left(THRESHOLDS, x=True, key=lambda threshold: share_removed(threshold) <= MOST_REMOVED)
        if index == len(THRESHOLDS):
            logger.warning(
                "Even at a mask_threshold of %s, more than %.1g of normal images' pixels stay removed: train longer.",
                *(THRESHOLDS[-1], MOST_REMOVED),
            )
        chosen = THRESHOLDS[min(index, len(THRESHOLDS) - 1)]
        self.chosen_threshold = torch.tensor(chosen, device=self.chosen_threshold.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        saved = state_dict.get(f"{prefix}chosen_threshold")
        if saved is not None:
            self.chosen_threshold = torch.empty_like(saved, device=self.chosen_threshold.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
