"""Pictures that are too large for the memory that a model may take: seen in strips."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import openvino
import openvino.opset13 as ops
from numpy.typing import NDArray

from riad_anomalib.report import Image
from riad_anomalib.strips import OVERLAP, Strip, strips

from .inference import Result, as_input, infer

_PROBE = 512
"""Side of the picture, in pixels, that a model's cost is counted on."""
_STRIDE = 8
"""Pixels of the network that its deepest features have one for."""
_MAPS_AT_ONCE = 1.75
"""Times what a convolution reads and writes at most that a picture takes: measured, see benchmarks/growth.py."""


class Cost(NamedTuple):
    """What a picture costs a model that sees it in its own size."""

    bytes: float
    """Memory for a pixel."""
    shrinks_by: int
    """Pixels of a side that the network sees as one."""

    def rows(self, memory: float, width: int) -> int:
        """Return how many rows of a picture of this width fit into so many MiB, a multiple of the stride.

        Raises:
            ValueError: If a strip would be too narrow; the message is what follows the picture's name.
        """
        stride = _STRIDE * self.shrinks_by
        rows = int(memory * 2**20 / (self.bytes * width)) // stride * stride
        least = (2 * OVERLAP + _STRIDE) * self.shrinks_by
        if rows < least:
            needed = np.ceil(least * self.bytes * width / 2**20)
            msg = f"is {width} pixels wide, of which the least strip takes {needed:.0f} MiB: give --memory as much"
            raise ValueError(msg)
        return rows


def cost_of(model: openvino.Model) -> Cost:
    """Return what pictures cost an exported model.

    Args:
        model: With inputs of any height and width.

    Raises:
        ValueError: If strips would give it other results: it resizes pictures or takes means.
    """
    advice = "leave --memory out"
    if _nearest(model.output("pred_score").get_node(), "Reduce").get_type_name() != "ReduceMax":
        msg = f"the model's score is no maximum, which strips could tell: {advice}, or train with image_score max"
        raise ValueError(msg)
    probe = model.clone()
    probe.reshape([1, 3, _PROBE, _PROBE])
    dynamic = model.input(0).partial_shape[2].is_dynamic and model.input(0).partial_shape[3].is_dynamic
    if not dynamic or list(probe.output("anomaly_map").shape)[-2:] != [_PROBE, _PROBE]:
        msg = f"the model sees all pictures in one size, which takes the same memory always: {advice}"
        raise ValueError(msg)
    largest, sides = 0, [1]
    for operation in probe.get_ops():
        if "Convolution" in operation.get_type_name():
            touched = [operation.output(0), operation.input_value(0)]
            largest = max(largest, sum(4 * int(np.prod(list(each.shape))) for each in touched))
            sides.append(max(each.shape[-1] for each in touched))
    return Cost(_MAPS_AT_ONCE * largest / _PROBE**2, _PROBE // max(sides))


def _nearest(node: openvino.Node, kind: str) -> openvino.Node:
    """Return the nearest operation on the way to a node whose type begins so; one without inputs if there is none."""
    pending = deque([node])
    while pending and not node.get_type_name().startswith(kind):
        node = pending.popleft()
        pending.extend(node.input_value(index).get_node() for index in range(node.get_input_size()))
    return node


def take_strips(model: openvino.Model) -> NDArray[np.uint8] | None:
    """Let a model score the rows of a strip that are kept, and look at the part of its region that the strip shows.

    Its further inputs are the first of these rows, the row after the last, and, if it has a region, that part. The
    region is the graph's only matrix of uint8, and in two gatherings gets the picture's rows and columns.

    Args:
        model: What :func:`cost_of` takes, changed in place.

    Returns:
        The region's mask, ``(h, w)``.
    """
    maximum = _nearest(model.output("pred_score").get_node(), "Reduce")
    first, last = (ops.parameter([1], np.int64, name) for name in ("first", "last"))
    along = [ops.constant(np.array([value], np.int64)) for value in (1, 2)]  # step, axis
    maximum.input(0).replace_source_output(ops.slice(maximum.input_value(0), first, last, *along).output(0))
    added, mask = [first, last], None
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type() == openvino.Type.u8:
            if len(operation.shape) != 2:  # noqa: PLR2004  # weights of 8 bits have four
                continue
            mask = np.array(operation.data, np.uint8)
            added.append(ops.parameter([-1, -1], np.uint8, "region"))
            found = operation
            for _ in ("rows", "columns"):
                (target,) = found.output(0).get_target_inputs()
                found = target.get_node()
            for target in found.output(0).get_target_inputs():
                target.replace_source_output(added[-1].output(0))
    model.add_parameters(added)
    model.validate_nodes_and_infer_types()
    return mask


class Limits:
    """Prepares a model for strips.

    Args:
        memory: MiB for all pictures that are at work.
    """

    cost: Cost
    mask: NDArray[np.uint8] | None

    def __init__(self, memory: int) -> None:
        self.memory = memory

    def prepare(self, model: openvino.Model) -> None:
        """Take a model over, see :func:`cost_of` and :func:`take_strips`."""
        self.cost = cost_of(model)
        self.mask = take_strips(model)


class InStrips:
    """Cuts pictures into strips on their way to a model, and joins what it says of them.

    Args:
        cost: Of the model.
        memory: MiB that a picture may take.
        skip: Told the name of a picture that cannot be cut so, or had a strip without a result, and what is wrong.
        mask: The region's, of the model.
    """

    def __init__(
        self, cost: Cost, memory: float, skip: Callable[[str, str], None], mask: NDArray[np.uint8] | None
    ) -> None:
        self._cost, self._memory, self._skip, self._mask = cost, memory, skip, mask
        self._begun: deque[tuple[str, Image, Image, Strip]] = deque()
        self._failed = ""

    def skip(self, name: str, problem: str) -> None:
        """Report a picture, once, of which a strip has no result."""
        if self._failed != name:
            self._failed = name
            self._skip(name, problem)

    def cut(self, images: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
        """Return strips, each by its picture's name."""
        stride = _STRIDE * self._cost.shrinks_by
        for name, image in images:
            try:
                rows = self._cost.rows(self._memory, image.shape[1])
            except ValueError as error:
                self._skip(name, str(error))
                continue
            for strip in strips(image.shape[0], rows, stride, OVERLAP * self._cost.shrinks_by):
                part = image[strip.start : strip.stop]
                self._begun.append((name, image, part, strip))
                yield name, part

    def inputs(self, part: Image) -> dict[int, NDArray[Any]]:
        """Return what the model takes of the strip that was cut last."""
        _, image, _, strip = self._begun[-1]
        kept = (strip.first - strip.start, strip.last - strip.start)
        inputs: dict[int, NDArray[Any]] = {0: as_input(part)}
        inputs |= {number: np.array([row], np.int64) for number, row in enumerate(kept, 1)}
        if self._mask is not None:
            rows, columns = (_under(side, of) for side, of in zip(image.shape, self._mask.shape, strict=False))
            inputs[3] = np.ascontiguousarray(self._mask[rows[strip.start : strip.stop]][:, columns])
        return inputs

    def joined(self, results: Iterable[Result]) -> Iterator[Result]:
        """Return a result for each picture: the strips' maps put together, and the greatest of their scores."""
        parts: list[tuple[Strip, Result]] = []
        for result in results:
            name, image, part, strip = self._begun.popleft()
            while part is not result.image:  # what is missing failed, and was reported
                name, image, part, strip = self._begun.popleft()
            if strip.first == 0:
                parts = []
            parts.append((strip, result))
            is_whole = all(one.last == other.first for (one, _), (other, _) in pairwise(parts))
            if strip.last == len(image) and parts[0][0].first == 0 and is_whole:
                yield _join(name, image, parts)


def _under(side: int, source: int) -> NDArray[np.int64]:
    """Return which of the mask's rows, or columns, lies under each of a picture's, as the model finds it."""
    return (2 * np.arange(side) + 1) * source // (2 * side)


def _join(name: str, image: Image, parts: list[tuple[Strip, Result]]) -> Result:
    kept = [(slice(strip.first - strip.start, strip.last - strip.start), result) for strip, result in parts]
    return Result(
        name,
        image,
        pred_score=max(result.pred_score for _, result in kept),
        pred_label=any(result.pred_label for _, result in kept),
        anomaly_map=np.concatenate([result.anomaly_map[rows] for rows, result in kept]),
        pred_mask=np.concatenate([result.pred_mask[rows] for rows, result in kept]),
    )


def infer_within(
    limits: Limits | None,
    requests: Sequence[openvino.InferRequest],
    images: Iterable[tuple[str, Image]],
    skip: Callable[[str, str], None],
) -> Iterator[Result]:
    """Run the model on pictures as :func:`infer` does, in strips where memory is given for no more.

    Args:
        limits: What a model was prepared for; None for one that sees pictures whole.
        requests: As :func:`infer` takes them, and so are the others.
        images: Names and pictures.
        skip: Told the name of a picture that gets no result, and what is wrong.
    """
    if limits is None:
        return infer(requests, images, skip)
    parts = InStrips(limits.cost, limits.memory / len(requests), skip, limits.mask)
    return parts.joined(infer(requests, parts.cut(images), parts.skip, parts.inputs))
