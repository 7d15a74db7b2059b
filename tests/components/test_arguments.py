from fractions import Fraction

import numpy as np
import pytest
from omegaconf import OmegaConf

from riad_anomalib.components.arguments import finite_number, one_or_more, plain_list, whole_number


def test_numbers_pass_and_whole_ones_become_plain() -> None:
    assert whole_number("n", 3) == 3
    assert type(whole_number("n", np.int64(3))) is int
    assert finite_number("x", 0.5) == 0.5
    assert type(finite_number("x", 2)) is int


def test_lists_become_plain() -> None:
    for value in ([1, 2], (1, 2), OmegaConf.create([1, 2])):
        assert plain_list("x", value, "[1]") == [1, 2]
        assert type(plain_list("x", value, "[1]")) is list


def test_one_number_or_name_is_a_list_of_one_where_more_may_stand() -> None:
    assert one_or_more("x", 4, "[1]") == [4]
    assert one_or_more("x", "zeros", "['a']") == ["zeros"]
    assert one_or_more("x", OmegaConf.create([1, 2]), "[1]") == [1, 2]
    with pytest.raises(ValueError, match=r"^x is True: give a list"):
        one_or_more("x", True, "[1]")


@pytest.mark.parametrize("value", ["ab", 1, None, {"a": 1}])
def test_what_is_no_list_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^x is .*: give a list, for example \['a'\]$"):
        plain_list("x", value, "['a']")


@pytest.mark.parametrize("value", [True, 2.5, 2.0, float("nan"), "2", None, [2]])
def test_what_is_no_whole_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^n is .*: it must be a whole number$"):
        whole_number("n", value)


@pytest.mark.parametrize("value", [False, float("nan"), float("inf"), "2", None, 1j, [0.5]])
def test_what_is_no_finite_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^x is .*: it must be a finite number$"):
        finite_number("x", value)
    assert finite_number("x", Fraction(1, 2)) == 0.5
