"""Compression of an exported model: the network's convolutions, and nothing else."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import ImageBatch, VideoBatch, VideoItem
from anomalib.metrics import F1Score
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

if TYPE_CHECKING:
    import nncf  # optional dependencies
    import openvino

# Quantized with everything else, the similarity of nearly flat regions drowns in rounding: GMS compares squares of
# gradients with 0.0026.
_NETWORK = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData")
_QUANTIZED = ("Convolution", "ConvolutionBackpropData", "Concat", "Constant", "Parameter", "Result")


def _arguments(model: "openvino.Model", normal_images: Dataset[Any]) -> dict[str, Any]:
    """Return what both ways of quantizing need: where activations' ranges come from, and what stays as it is."""
    import nncf  # noqa: PLC0415

    logging.getLogger("nncf").setLevel(logging.WARNING)  # it names every operation that stays as it is
    return {
        "calibration_dataset": nncf.Dataset(_one_by_one(normal_images), lambda batch: batch.image.numpy()),
        "subset_size": len(normal_images),  # type: ignore[arg-type]  # anomalib's sets have a length
        "ignored_scope": _all_but(_QUANTIZED, model),
    }


def _guarded() -> "nncf.AdvancedQuantizationParameters":
    """Keep a bit of the weights in reserve: processors without VNNI add products of 8 bits in 16, which overflow."""
    import nncf  # noqa: PLC0415

    return nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)


def _all_but(types: tuple[str, ...], model: "openvino.Model") -> "nncf.IgnoredScope":
    import nncf  # noqa: PLC0415

    present = {operation.get_type_name() for operation in model.get_ops()}
    return nncf.IgnoredScope(types=sorted(present.difference(types)))


def _one_by_one(images: Dataset[Any]) -> "DataLoader[Any]":
    batch = VideoBatch if isinstance(images[0], VideoItem) else ImageBatch
    return DataLoader(images, batch_size=1, collate_fn=batch.collate)


def compress_weights(model: "openvino.Model") -> "openvino.Model":
    """Store the network's weights in 8 bits (``INT8``); not the matrices of resizing, which are constants too.

    Args:
        model: Exported model.
    """
    import nncf  # noqa: PLC0415

    logging.getLogger("nncf").setLevel(logging.WARNING)
    compressed: openvino.Model = nncf.compress_weights(model, ignored_scope=_all_but((*_NETWORK, "Constant"), model))
    return compressed


def halve_weights(model: "openvino.Model") -> "openvino.Model":
    """Store the network's weights in 16 bits (``FP16``); thresholds, statistics of normal images, positions stay.

    Args:
        model: Exported model, changed in place.
    """
    from openvino import opset13  # noqa: PLC0415

    for operation in model.get_ops():
        if operation.get_type_name() not in _NETWORK:
            continue
        weights = operation.input_value(1).get_node()
        if weights.get_type_name() == "Constant" and abs(weights.data).max() <= torch.finfo(torch.float16).max:
            halved = opset13.convert(opset13.constant(weights.data.astype("float16")), "f32")
            operation.input(1).replace_source_output(halved.output(0))
    return model


def quantize(model: "openvino.Model", normal_images: Dataset[Any]) -> "openvino.Model":
    """Quantize after training (``INT8_PTQ``).

    Args:
        model: Exported model; input ``(N, 3, H, W)`` in [0, 1].
        normal_images: anomalib's items of normal images, as large as the model's input.

    Returns:
        The model with its convolutions in 8 bits.
    """
    import nncf  # noqa: PLC0415

    quantized: openvino.Model = nncf.quantize(model, advanced_parameters=_guarded(), **_arguments(model, normal_images))
    return quantized


def quantize_with_accuracy_control(
    model: "openvino.Model",
    normal_images: Dataset[Any],
    labelled_images: Dataset[Any],
    metric: Metric | None,
    max_drop: float,
) -> "openvino.Model":
    """Quantize after training, and take back what costs more than this much of a metric (``INT8_ACQ``).

    Args:
        model: Exported model; input ``(N, 3, H, W)`` in [0, 1].
        normal_images: anomalib's items of normal images, as large as the model's input.
        labelled_images: anomalib's items to compute the metric on, as large as the model's input.
        metric: An anomalib metric, greater is better; None for the F1 score of images.
        max_drop: How much of the metric may be lost.

    Returns:
        The model with those of its convolutions in 8 bits that do not cost more.
    """
    import nncf  # noqa: PLC0415

    measure = metric or F1Score(fields=["pred_label", "gt_label"])

    def value(compiled: "openvino.CompiledModel", batches: Iterable[ImageBatch]) -> float:
        measure.reset()  # it is asked for once for every attempt
        for batch in batches:
            outputs = compiled(batch.image.numpy())  # type: ignore[union-attr]  # a tensor once collated
            scored: dict[str, Any] = {output.any_name: torch.from_numpy(outputs[output]) for output in compiled.outputs}
            measure.update(batch.update(**scored))
        return float(measure.compute())

    quantized: openvino.Model = nncf.quantize_with_accuracy_control(
        model,
        validation_dataset=nncf.Dataset(_one_by_one(labelled_images)),
        validation_fn=value,
        max_drop=max_drop,
        advanced_quantization_parameters=_guarded(),
        **_arguments(model, normal_images),
    )
    return quantized
