"""Thresholds from good pictures alone, and what they promise: by hand, and over many draws."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riad_anomalib.false_alarms import Promise, check_rate, interval, spread, threshold, upper_bound


@pytest.mark.parametrize(
    ("scores", "rate", "value", "above"),
    [
        (range(1, 10), 0.2, 8.5, 1),  # ceil(10 * 0.8) = 8th smallest, in the middle of the gap above
        (range(1, 10), 0.1, 9.08, 0),  # the 9th, which has nothing above: a hundredth of what they differ by
        (range(1, 10), 0.01, 9.08, 0),  # too few: the highest
        (range(1, 101), 0.07, 94.5, 6),  # 101 * 0.93 = 93.93: the 94th
        ([1, 1, 2, 2], 0.4, 2.01, 0),  # floor(5 * 0.4) - 1 = 1 may lie above, and the 3rd is also the 4th
        ([0, 5, 5, 5], 0.9, 2.5, 3),
        ([3], 0.01, 3.03, 0),
        ([0], 0.01, 0.01, 0),
        ([-3], 0.5, -2.97, 0),
    ],
)
def test_the_threshold_is_the_order_statistic_of_split_conformal_prediction(
    scores: Sequence[float], rate: float, value: float, above: int
) -> None:
    found, promise = threshold([*scores], rate)
    assert found == pytest.approx(value)
    assert sum(score > found for score in scores) <= promise.above
    assert promise.pictures == len(scores)
    assert above <= promise.above


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "no good pictures to find a threshold from"),
        ([0.5, 0.5, 0.5], "all 3 good pictures have the score 0.5, which tells nothing apart"),
        ([0.5, float("nan")], "has no finite score"),
    ],
)
def test_scores_that_find_no_threshold_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        threshold(scores, 0.1)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, True, "0.1", None, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: object) -> None:
    with pytest.raises(ValueError, match=r"false_alarms is .*: give a share of good pictures in \(0, 1\)"):
        check_rate("false_alarms", rate)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.floats(0.001, 0.999))
@settings(max_examples=200, deadline=None)
def test_no_picture_is_on_the_edge_and_no_more_than_promised_above(scores: list[float], rate: float) -> None:
    if len(scores) > 1 and min(scores) == max(scores):
        return
    found, promise = threshold(scores, rate)
    assert sum(score > found for score in scores) <= promise.above
    assert found not in scores or len({*scores}) < len(scores) or min(np.diff(sorted(scores))) < 1e-9 * abs(found)
    assert spread(scores, found) > 0


def test_the_promises_hold_over_many_draws() -> None:
    """Of pictures drawn from any distribution: the rate on average, and the bound in nine of ten draws."""
    draws = 4000
    generator = random.Random(0)  # noqa: S311  # no secret
    for number, rate in ((19, 0.05), (50, 0.1), (30, 0.01)):
        exceeded, rates, promise = 0, 0.0, Promise(rate, number, 0)
        for _ in range(draws):
            # Of uniform scores, the share of pictures above a threshold is 1 - threshold.
            value, promise = threshold([generator.random() for _ in range(number)], rate)
            rates += 1 - min(value, 1)
            exceeded += 1 - min(value, 1) > promise.bound
        # The threshold lies in the gap above its order statistic, so alarms are rarer than promised, never more common.
        assert rates / draws <= promise.expected * 1.02
        low, _ = interval(exceeded, draws, 0.999)
        assert low <= 0.1


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    assert upper_bound(0, 87) == pytest.approx(1 - 0.1 ** (1 / 87))
    assert upper_bound(5, 5) == 1
    assert upper_bound(1, 2, 0.75) == pytest.approx(0.75**0.5)  # 1 - p**2 = 0.25
    assert interval(0, 10)[0] == pytest.approx(0, abs=1e-12)
    low, high = interval(200, 2000)
    assert low < 0.1 < high
    # An interval that is exact covers the truth in at least nine of ten draws.
    drawn = np.random.default_rng(0).binomial(40, 0.1, size=2000)
    covered = sum(low <= 0.1 <= high for low, high in (interval(int(alarms), 40) for alarms in drawn))
    assert interval(covered, 2000, 0.999)[1] >= 0.9


def test_a_promise_says_no_more_than_the_pictures_can_tell() -> None:
    assert str(Promise(0.05, 87, 3)) == (
        "87 good pictures: at most 4.5 % false alarms on average, at most 7.5 % with 90 % confidence"
    )
    assert str(Promise(0.01, 1, 0)) == (
        "1 good picture: at most 50 % false alarms on average, at most 90 % with 90 % confidence; "
        "the 1 % asked for take 99 pictures"
    )
