import numpy as np
import pytest

from riad_anomalib.deploy.changes import CHANGES

BY_NAME = {change.name: change for change in CHANGES}


def picture(height: int = 256, width: int = 320) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(40, 200, (height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def test_there_are_thirteen_changes_from_mild_to_strong_and_each_changes_pictures_the_more_the_stronger() -> None:
    image = picture().astype(int)
    assert len(BY_NAME) == len(CHANGES) == 13
    for change in CHANGES:
        changes = [np.abs(change.apply(picture(), s).astype(int) - image).mean() for s in change.strengths]
        assert 0 < changes[0] < changes[1] < changes[2], change.name
        assert change.apply(picture(), change.strengths[2]).dtype == np.uint8
        first, again = (change.apply(picture(), change.strengths[1]) for _ in range(2))
        assert np.array_equal(first, again), change.name


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("darker", 0.9, [90, 135, 180]),
        ("offset", 0.1, [126, 176, 226]),  # 25.5 more, to even
        ("contrast", 0.5, [100, 150, 200]),
        ("white balance", 0.1, [90, 150, 220]),
    ],
)
def test_light_by_hand(name: str, strength: float, expected: list[int]) -> None:
    flat = np.full((8, 8, 3), (100, 150, 200), np.uint8)
    assert BY_NAME[name].apply(flat, strength)[4, 4].tolist() == pytest.approx(expected, abs=1)


def test_a_shift_is_a_share_of_the_shorter_side_to_the_right_and_down() -> None:
    image = picture(128, 256)
    shifted = BY_NAME["shift"].apply(image, 8)  # 4 pixels of 128
    assert np.array_equal(shifted[4:, 4:], image[:-4, :-4])
    assert np.array_equal(shifted[:4, 4:], image[:1, :-4].repeat(4, axis=0))


def test_a_ramp_darkens_the_left_and_a_turn_keeps_the_centre() -> None:
    flat = np.full((9, 9, 3), 100, np.uint8)
    ramp = BY_NAME["ramp"].apply(flat, 0.2)
    assert ramp[4, [0, 4, 8], 0].tolist() == [80, 100, 120]
    assert BY_NAME["turn"].apply(picture(65, 65), 4)[32, 32] == pytest.approx(picture(65, 65)[32, 32], abs=3)
