"""RIAD as a torch module: masked copies, inpainting, reassembly, anomaly map ([RIAD] Sec. 3)."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from riad_anomalib.components.arguments import check_choice, check_images, whole_number
from riad_anomalib.components.batching import in_parts
from riad_anomalib.components.calibration import Calibration
from riad_anomalib.components.masking import (
    check_regions,
    fixed_partition,
    mask_out,
    random_partition,
    reassemble,
    removed_regions,
)
from riad_anomalib.components.region import Region, smooth_inside
from riad_anomalib.components.registration import Registration
from riad_anomalib.components.smoothing import anomaly_score, check_smoothing_size, mean_filter, window_size
from riad_anomalib.components.unet import InpaintingUNet

from .anomaly_map import SCORE_FUNCTIONS, dissimilarity_map


class RiadModel(nn.Module):
    """Reconstruction by inpainting ([RIAD] Algs. 1 and 3).

    In training mode it returns a reconstruction for the loss, in evaluation mode an anomaly map and score. The
    defaults of these arguments stand in :class:`riad_anomalib.Riad`.

    Args:
        channels: Channels C of the images.
        image_size: Height and width of the images, multiples of 16 and of every region size.
        region_sizes: Side lengths K of the square regions, in pixels.
        num_disjoint_sets: Number n of sets that the regions are dealt to, at least 2.
        base_width: Channels of the U-Net's first level.
        skip_connections: Whether the U-Net has skip connections (RIAD) or not (RIAD_ns, Table 6).
        score_function: Similarity behind the anomaly map, a key of :data:`SCORE_FUNCTIONS`.
        calibration: ``"none"``, or ``"pixel"`` for a map relative to normal images' mean and standard deviation.
        registration: ``"none"``, ``"light"``, ``"position"`` or ``"auto"``.
        region: True where images are inspected, ``(h, w)``; None for everywhere.
        smoothing_size: Side length s_f of the mean filter: an odd number of pixels, or a share of the image's shorter
            side in (0, 1).
        num_partitions: Partitions of every region size that inference uses, at least 1.
        partition_seed: Seed in [0, 2**32) of the partitions that inference uses.

    Raises:
        ValueError: If an argument is out of range or the sizes do not fit each other.
    """

    removed: Tensor

    def __init__(
        self,
        *,
        channels: int,
        image_size: tuple[int, int],
        region_sizes: Sequence[int],
        num_disjoint_sets: int,
        base_width: int,
        skip_connections: bool,
        score_function: str,
        calibration: str,
        registration: str,
        region: Tensor | None,
        smoothing_size: float,
        num_partitions: int,
        partition_seed: int,
    ) -> None:
        super().__init__()
        check_choice("score_function", score_function, SCORE_FUNCTIONS)
        check_smoothing_size(smoothing_size)
        if whole_number("num_partitions", num_partitions) < 1:
            msg = f"num_partitions is {num_partitions}: it must be at least 1, as in the paper"
            raise ValueError(msg)
        if not 0 <= whole_number("partition_seed", partition_seed) < 2**32:
            msg = f"partition_seed is {partition_seed}: it must be in [0, 2**32)"
            raise ValueError(msg)
        self.channels = channels
        self.region_sizes = tuple(region_sizes)
        self.num_disjoint_sets = num_disjoint_sets
        self.base_width = base_width
        self.score_function = score_function
        self.calibration = Calibration(calibration)
        self.registration = Registration(registration)
        self.region = Region(region)
        self.smoothing_size = smoothing_size
        self.num_partitions = num_partitions
        self.partition_seed = partition_seed
        self.set_image_size(image_size)
        self.network = InpaintingUNet(channels, base_width, skip_connections)

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Draw the partitions that inference uses, for images of this height and width.

        Raises:
            ValueError: If the size does not fit the region sizes or the network.
        """
        height, width = image_size
        check_regions((height, width), self.region_sizes, self.num_disjoint_sets, InpaintingUNet.STRIDE)
        self.image_size = (height, width)
        # DEVIATES [RIAD] Sec. 3.4: the paper draws partitions anew for every test image, which makes its scores
        # irreproducible; here they are drawn once, so that an image has one score.
        removed = torch.stack(
            [
                removed_regions(
                    fixed_partition(height, width, k, self.num_disjoint_sets, (self.partition_seed + p) % 2**32),
                    self.num_disjoint_sets,
                )
                for p in range(self.num_partitions)
                for k in self.region_sizes
            ]
        )  # (P*K, S, 1, H, W)
        device = self.removed.device if hasattr(self, "removed") else None
        # Not persistent: its shape follows the image size, and it can be drawn again from the arguments.
        self.register_buffer("removed", removed.to(device), persistent=False)
        self.calibration.forget()
        self.registration.forget()

    @property
    def smoothing_window(self) -> int:
        """Side length of the mean filter in pixels, odd."""
        return window_size(self.smoothing_size, self.image_size)

    def forward(self, image: Tensor) -> Tensor | InferenceBatch:
        """Reconstruct (training) or score (evaluation) a batch.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            In training mode the reconstruction in [0, 1] from random partitions, ``(N, C, H, W)``; in evaluation mode
            ``anomaly_map (N, 1, H, W)`` and ``pred_score (N,)``, float32.

        Raises:
            ValueError: If the batch has another shape than the model was built for.
        """
        check_images(image, self.channels, self.image_size)
        if self.training:
            return self.reconstruct(image, self.random_removed(len(image), image.device))
        registered, motion = self.registration(image)
        values_map = self.registration.back(self.calibration(self.dissimilarity_map(registered)), motion)
        inside = self.region.inside(values_map)
        values_map = smooth_inside(values_map, inside, lambda values: mean_filter(values, self.smoothing_window))
        return InferenceBatch(anomaly_map=values_map, pred_score=anomaly_score(values_map, inside))

    def dissimilarity_map(self, image: Tensor) -> Tensor:
        """Compare a batch with its reconstructions: the anomaly map before calibration and smoothing.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Dissimilarity, float32, ``(N, 1, H, W)``.
        """
        return dissimilarity_map(image.float(), self.reconstructions(image), self.score_function)

    def random_removed(self, batch_size: int, device: torch.device) -> Tensor:
        """Draw a region size for the step and a partition of it for every image ([RIAD] Sec. 3.3, Alg. 2).

        Returns:
            True where a set's regions lie, bool, ``(N, S, 1, H, W)``.
        """
        region_size = self.region_sizes[int(torch.randint(len(self.region_sizes), ()))]
        partition = random_partition(
            *self.image_size,
            region_size,
            self.num_disjoint_sets,
            batch_size=batch_size,
            device=device,
        )
        return removed_regions(partition, self.num_disjoint_sets)

    def reconstruct(self, image: Tensor, removed: Tensor) -> Tensor:
        """Paint every set of regions back from the rest of the image ([RIAD] Alg. 1).

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.
            removed: True where a set's regions lie, ``(S, 1, H, W)`` or ``(N, S, 1, H, W)``.

        Returns:
            Reconstruction in [0, 1], ``(N, C, H, W)``.
        """
        masked = mask_out(image, removed)  # (N*S, C, H, W)
        return reassemble(self._inpaint(masked), removed)

    def reconstructions(self, image: Tensor) -> Tensor:
        """Reconstruct with every region size, from the fixed partitions ([RIAD] Alg. 3).

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Reconstructions in [0, 1], ``(N, P*K, C, H, W)``: every region size for the first of P partitions, and so
            on.
        """
        num_images, num_partitions = image.shape[0], len(self.removed)
        images = image.unsqueeze(1).expand(-1, num_partitions, -1, -1, -1).flatten(0, 1)  # (N*P*K, C, H, W)
        removed = self.removed.repeat(num_images, 1, 1, 1, 1)  # (N*P*K, S, 1, H, W)
        reconstructions: Tensor = self.reconstruct(images, removed).unflatten(0, (-1, num_partitions))
        return reconstructions

    def reconstruction(self, image: Tensor) -> Tensor:
        """Return the mean of all reconstructions, to look at.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Reconstruction in [0, 1], ``(N, C, H, W)``.
        """
        return self.reconstructions(image).mean(dim=1)

    def _inpaint(self, masked: Tensor) -> Tensor:
        """Run the network on all masked copies; in training batch norm looks at the whole batch."""
        inpainted: Tensor = self.network(masked) if self.training else in_parts(self.network, masked, self.base_width)
        return inpainted

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        # Checkpoints of version 0.1 have the statistics of normal images here.
        for name in ("normal_mean", "normal_std"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}calibration.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)
