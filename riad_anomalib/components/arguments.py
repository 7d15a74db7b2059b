"""Numbers that a user gave: what is none is refused by name, before arithmetic fails with a TypeError."""

from math import isfinite
from numbers import Integral, Real
from typing import Any


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
