"""What reaches the model of an image: its size, its range, and the same in exports as in the engine."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize

from riad_anomalib.components.arguments import whole_number
from riad_anomalib.components.resize import AntialiasedResize

# torchvision takes names (which its transforms hold since 0.29), its own modes and Pillow's numbers.
_KERNELS: dict[Any, str] = {
    key: kernel
    for kernel, number in (("bilinear", 2), ("bicubic", 3))
    for key in (kernel, InterpolationMode(kernel), number)
}

Size = TypeVar("Size", bound=tuple[int, int] | None)

RANGE_TOLERANCE = 1e-3
"""How far a black or white image may leave [0, 1] in pre-processing: a quarter of a grey level, for rounding.

Bicubic resizing also overshoots at edges (to 1.04 on pictures of MVTec AD's bottle). That is left as it is: the model
meets the same edges in training, and clipping them in the engine alone would give an export other scores.
"""


def height_and_width(image_size: Any, name: str = "image_size") -> tuple[int, int]:  # noqa: ANN401
    """Return an image size as plain numbers: a checkpoint cannot hold OmegaConf's lists, which YAML brings.

    Args:
        image_size: Height and width, or one number for both.
        name: The argument's.

    Raises:
        ValueError: If it is anything but one or two whole numbers.
    """
    if not isinstance(image_size, Sequence):
        image_size = (image_size, image_size)
    if isinstance(image_size, str) or len(image_size) != 2:  # noqa: PLR2004
        msg = f"{name} is {image_size!r}: give height and width, for example [256, 256], or one number for both"
        raise ValueError(msg)
    return whole_number(name, image_size[0]), whole_number(name, image_size[1])


def transformed(pre_processor: Any, images: Tensor) -> Tensor:  # noqa: ANN401
    """Return what a pre-processor makes of a batch while anomalib's engine runs."""
    transform = getattr(pre_processor, "transform", None)
    return images if transform is None else transform(images)


def _probe(pre_processor: Any, height: int, width: int) -> Tensor:  # noqa: ANN401
    """Return what a pre-processor makes of a black and a white image, ``(2, 3, H, W)``."""
    return transformed(pre_processor, torch.stack([torch.zeros(3, height, width), torch.ones(3, height, width)]))


def size_after(pre_processor: Any, unresized: Size) -> tuple[int, int] | Size:  # noqa: ANN401
    """Return the height and width at which images reach the model.

    Args:
        pre_processor: anomalib's, or None.
        unresized: Height and width of images that nothing resizes; None for any.

    Raises:
        ValueError: If it depends on the image.
    """
    tall, wide = (tuple(_probe(pre_processor, *size).shape[-2:]) for size in ((192, 128), (128, 192)))
    if tall == wide:
        return tall[0], tall[1]
    if (tall, wide) == ((192, 128), (128, 192)):
        return unresized
    msg = (
        "the pre-processor gives images of a size that depends on their own: "
        "resize to a fixed height and width, for example Resize((256, 256)) instead of Resize(256)"
    )
    raise ValueError(msg)


def check_range(pre_processor: Any, image_size: tuple[int, int] | None) -> None:  # noqa: ANN401
    """Refuse a pre-processor that takes images out of [0, 1].

    Raises:
        ValueError: If it does.
    """
    probe = _probe(pre_processor, *(image_size or (64, 64)))
    if probe.min() < -RANGE_TOLERANCE or probe.max() > 1 + RANGE_TOLERANCE:
        msg = (
            f"the pre-processor maps images in [0, 1] to [{probe.min():.3g}, {probe.max():.3g}]; the model needs "
            "[0, 1], which it reconstructs and compares in: take Normalize (or what else rescales values) out of it"
        )
        raise ValueError(msg)


def check_precision(precision: str | int) -> None:
    """Refuse precisions in which a network's weights are of another type than images, which come in float32.

    Raises:
        ValueError: If it is one.
    """
    if str(precision).endswith("-true") and precision != "32-true":
        msg = f"precision is {precision}, and anomalib's images are float32: take 32-true, bf16-mixed or 16-mixed"
        raise ValueError(msg)


def smooth_exports(pre_processor: Any) -> None:  # noqa: ANN401
    """Let exports, and calls of the model on images of any size, shrink images as the engine does.

    anomalib takes antialiasing out of what it exports: thresholds found with it would meet other images there.
    """
    if hasattr(pre_processor, "export_transform"):
        pre_processor.export_transform = _with_antialiasing(pre_processor.export_transform, pre_processor.transform)


def _with_antialiasing(exportable: Any, transform: Any) -> Any:  # noqa: ANN401
    if isinstance(transform, Compose):
        pairs = zip(exportable.transforms, transform.transforms, strict=True)
        return Compose([_with_antialiasing(*pair) for pair in pairs])
    if not _averages(transform):
        return exportable
    if _depends_on_the_image(transform):
        return transform  # torch resizes as in the engine; check_export refuses the rest
    return AntialiasedResize((transform.size[0], transform.size[1]), _KERNELS[transform.interpolation])


def _averages(transform: Any) -> bool:  # noqa: ANN401
    return isinstance(transform, Resize) and bool(transform.antialias) and transform.interpolation in _KERNELS


def _depends_on_the_image(transform: Resize) -> bool:
    return transform.size is None or len(transform.size) != 2  # noqa: PLR2004


def check_export(pre_processor: Any) -> None:  # noqa: ANN401
    """Refuse to export a resizing that a graph for images of any size cannot hold, before any time is spent.

    Raises:
        ValueError: If a ``Resize`` keeps the proportions of images.
    """
    pending = [getattr(pre_processor, "export_transform", None)]
    while pending:
        transform = pending.pop()
        if isinstance(transform, Compose):
            pending.extend(transform.transforms)
        elif isinstance(transform, Resize) and _depends_on_the_image(transform):
            msg = (
                f"the pre-processor's {transform} makes a size that depends on the image, which an exported graph "
                "cannot: give height and width, for example Resize((256, 256)), and train with that"
            )
            raise ValueError(msg)
