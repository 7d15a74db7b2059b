"""What a threshold that good pictures alone have found can promise: split conformal prediction, exact binomial bounds.

Numbers in, numbers out. Standard library only: training and deployment use it alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, isfinite, log, log1p
from statistics import median

CONFIDENCE = 0.9
"""That of all bounds."""
MARGIN = 0.01
"""How far a threshold lies above the highest score, as a share of what scores differ by: other runtimes round."""
_ROUNDING = 1e-9  # 100 * 0.07 is 7.000000000000001


@dataclass(frozen=True)
class Promise:
    """What good pictures that no network has been trained on promise of others like them.

    A picture more is one of n + 1 that might be in any order, so it lies above the k-th smallest of n scores with
    probability (n + 1 - k)/(n + 1); over draws of the n pictures that share is Beta(n + 1 - k, k).
    """

    asked: float
    """Rate of false alarms that was asked for, in (0, 1)."""
    pictures: int
    """How many pictures the threshold is from; those of one product, line or video are no more than alike."""
    above: int
    """How many of them may lie above it."""

    @property
    def expected(self) -> float:
        """The rate that is promised on average."""
        return (self.above + 1) / (self.pictures + 1)

    @property
    def bound(self) -> float:
        """The rate that is not exceeded with a confidence of 90 %."""
        return upper_bound(self.above, self.pictures)

    @property
    def is_kept(self) -> bool:
        """Whether there are pictures enough for the rate that was asked for."""
        return self.expected <= self.asked + _ROUNDING

    def __str__(self) -> str:
        """Say it in words."""
        pictures = f"{self.pictures} good picture{'s' * (self.pictures > 1)}"
        said = (
            f"{pictures}: at most {percent(self.expected)} false alarms on average, "
            f"at most {percent(self.bound)} with {percent(CONFIDENCE)} confidence"
        )
        if self.is_kept:
            return said
        needed = ceil(1 / self.asked - 1 - _ROUNDING)
        return f"{said}; the {percent(self.asked)} asked for take {needed} pictures"


def percent(rate: float) -> str:
    """Return a rate in words.

    Example:
        >>> percent(0.0114), percent(0.9), percent(1 / 3)
        ('1.1 %', '90 %', '33 %')
    """
    return f"{100 * rate:.2g} %" if rate < 0.995 else "100 %"  # noqa: PLR2004  # below, 2 digits do not say 1e+02


def check_rate(name: str, value: object) -> float:
    """Return a rate of false alarms.

    Raises:
        ValueError: If it is no number in (0, 1).
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        msg = f"{name} is {value!r}: give a share of good pictures in (0, 1), for example 0.01 for one in a hundred"
        raise ValueError(msg)
    return float(value)


def threshold(scores: Sequence[float], rate: float) -> tuple[float, Promise]:
    """Return the threshold above which good pictures lie at this rate, and what it promises.

    The ceil((n + 1)(1 - rate))-th smallest score of n (split conformal prediction); the highest where n pictures are
    too few. It is moved up into the gap above that score, where no picture is on the edge and the promise holds all
    the more. No tail is assumed beyond the highest score: what is promised there is no more than 1 in n + 1.

    Args:
        scores: Of good pictures that the network was not trained on, one a picture.
        rate: The rate of false alarms, in (0, 1).

    Raises:
        ValueError: If there are no scores, one is not finite, or all are the same.

    Example:
        >>> threshold([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 0.2)
        (8.5, Promise(asked=0.2, pictures=9, above=1))
    """
    ordered = sorted(scores)
    if not ordered:
        msg = "there are no good pictures to find a threshold from"
        raise ValueError(msg)
    if not all(map(isfinite, ordered)):
        msg = "a good picture has no finite score: the network is broken, train it again"
        raise ValueError(msg)
    lowest, highest, number = ordered[0], ordered[-1], len(ordered)
    if number > 1 and lowest == highest:
        msg = f"all {number} good pictures have the score {lowest:g}, which tells nothing apart"
        raise ValueError(msg)
    above = min(max(floor((number + 1) * rate + _ROUNDING) - 1, 0), number - 1)
    chosen = ordered[number - 1 - above]
    higher = next((score for score in ordered[number - above :] if score > chosen), None)
    promise = Promise(rate, number, above)
    if higher is not None:
        return (chosen + higher) / 2, promise
    return chosen + MARGIN * (highest - lowest or abs(chosen) or 1.0), promise


def spread(scores: Sequence[float], found: float) -> float:
    """Return how far a threshold lies above a typical good picture, the measure for how far a picture lies beyond it.

    Args:
        scores: Of good pictures.
        found: The threshold that they found.

    Returns:
        More than 0: where most pictures are at the threshold, or there is one, what there is of a scale.
    """
    chosen = max(score for score in scores if score <= found)
    scales = (chosen - median(scores), chosen - min(scores), abs(chosen), 1.0)
    return next(scale for scale in scales if scale > 0)


def upper_bound(alarms: int, pictures: int, confidence: float = CONFIDENCE) -> float:
    """Return the rate that so many alarms among so many pictures do not let exceed (Clopper and Pearson, one side).

    Example:
        >>> round(upper_bound(0, 87), 4)  # 1 - 0.1 ** (1 / 87)
        0.0261
    """
    if alarms >= pictures:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):  # to the last digit
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(alarms, pictures, middle) > 1 - confidence else (low, middle)
    return high


def interval(alarms: int, pictures: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return between which rates so many alarms among so many pictures leave the truth (Clopper and Pearson).

    Example:
        >>> [round(end, 3) for end in interval(3, 40)]
        [0.021, 0.183]
    """
    one_side = (1 + confidence) / 2
    low = upper_bound(alarms - 1, pictures, 1 - one_side) if alarms else 0.0
    return low, upper_bound(alarms, pictures, one_side)


def _at_most(alarms: int, pictures: int, rate: float) -> float:
    """Return the probability of at most so many of so many at this rate."""
    if rate in {0.0, 1.0}:
        return 1.0 - rate
    total, ways = 0.0, 0.0  # ways: the logarithm of the binomial coefficient
    for number in range(alarms + 1):
        total += exp(ways + number * log(rate) + (pictures - number) * log1p(-rate))
        ways += log((pictures - number) / (number + 1)) if number < pictures else 0.0
    return min(total, 1.0)
