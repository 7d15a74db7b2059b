"""Checks of what a user gave: refused by name, before arithmetic or a network fails with an error of its own."""

from collections.abc import Iterable, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

from torch import Tensor


def whole_number(name: str, value: Any) -> int:  # noqa: ANN401
    """Return a whole number, NumPy's too, as Python's own, which checkpoints can hold.

    Raises:
        ValueError: If it is anything else; True and False are no numbers here.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"{name} is {value!r}: it must be a whole number"
        raise ValueError(msg)
    return int(value)


def finite_number(name: str, value: Any) -> float:  # noqa: ANN401
    """Return a number as it came.

    Raises:
        ValueError: If it is none, or infinite, or NaN; True and False are no numbers here.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        msg = f"{name} is {value!r}: it must be a finite number"
        raise ValueError(msg)
    return value  # type: ignore[return-value]  # a Real


def check_positive(name: str, value: Any, paper: str) -> None:  # noqa: ANN401
    """Refuse what is no positive number.

    Raises:
        ValueError: If it is none; ``paper`` is the value to go by.
    """
    if finite_number(name, value) <= 0:
        msg = f"{name} is {value}: it must be a positive number, the paper's is {paper}"
        raise ValueError(msg)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:  # noqa: ANN401
    """Refuse a name that is none of these.

    Raises:
        ValueError: If it is none of them.
    """
    choices = list(choices)  # in which, unlike in a dictionary, anything may be looked for
    if value not in choices:
        msg = f"{name} is {value!r}: choose one of {choices}"
        raise ValueError(msg)


def plain_list(name: str, value: Any, example: str, of: str = "") -> list[Any]:  # noqa: ANN401
    """Return a list or tuple, OmegaConf's too, which comes from YAML, as a list that checkpoints can hold.

    Raises:
        ValueError: If it is anything else; text is no list of letters.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        msg = f"{name} is {value!r}: give a list{of}, for example {example}"
        raise ValueError(msg)
    return list(value)


def one_or_more(name: str, value: Any, example: str, of: str = "") -> list[Any]:  # noqa: ANN401
    """Return a list as :func:`plain_list` does, also of a single number or name.

    Raises:
        ValueError: If it is neither.
    """
    is_single = isinstance(value, Real | str) and not isinstance(value, bool)
    return plain_list(name, [value] if is_single else value, example, of)


def check_images(image: Tensor, channels: int, image_size: tuple[int, int]) -> None:
    """Refuse a batch of another shape than ``(N, C, H, W)`` with the channels and size that a model was built for.

    Raises:
        ValueError: If it has another shape.
    """
    height, width = image_size
    if image.ndim != 4 or tuple(image.shape[1:]) != (channels, height, width):  # noqa: PLR2004
        msg = (
            f"images are {tuple(image.shape)}, the model was built for (N, {channels}, {height}, {width}): "
            "resize them in the pre-processor, or build the model with their size as image_size"
        )
        raise ValueError(msg)
