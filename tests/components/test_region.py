import logging

import pytest
import torch
from torch import Tensor, nn

from riad_anomalib.components.calibration import Calibration, likeness
from riad_anomalib.components.region import Region, smooth_inside
from riad_anomalib.components.smoothing import mean_filter, mean_score


def left_half(height: int = 6, width: int = 8) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, : width // 2] = True
    return mask


@pytest.mark.parametrize("size", [(6, 8), (3, 4), (12, 16), (7, 30)])
def test_a_mask_fits_maps_of_any_size(size: tuple[int, int]) -> None:
    inside = Region(left_half()).inside(torch.zeros(1, 3, *size))
    assert inside is not None
    assert inside.shape == (1, 1, *size)
    assert torch.equal(inside[0, 0], left_half(*size).float())
    assert Region().inside(torch.zeros(1, 3, *size)) is None


def test_a_uniform_map_stays_uniform_up_to_the_regions_border() -> None:
    inside = left_half()[None, None].float()
    smoothed = smooth_inside(torch.full((1, 1, 6, 8), 0.5), inside, lambda values: mean_filter(values, 5, 2))
    torch.testing.assert_close(smoothed, 0.5 * inside)
    assert mean_score(smoothed, inside).item() == pytest.approx(0.5)


def test_what_lies_outside_changes_nothing_inside() -> None:
    values, other = torch.rand(1, 1, 6, 8), torch.rand(1, 1, 6, 8)
    inside = left_half()[None, None].float()
    other = torch.where(inside > 0, values, other)
    first, second = (smooth_inside(each, inside, lambda value: mean_filter(value, 3)) for each in (values, other))
    torch.testing.assert_close(first, second)


def test_calibration_knows_nothing_of_the_outside() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.rand(10, 1, 32, 32, generator=generator)
    region = Region(left_half(32, 32))
    inside = region.inside(normal)
    assert inside is not None
    same_outside = torch.where(inside > 0, normal, torch.linspace(0, 1, 32))
    assert likeness(same_outside) > 0.8
    assert likeness(same_outside, inside) < 0.5
    assert likeness(same_outside, inside) == pytest.approx(likeness(normal, inside))
    calibrated = []
    for each in (normal, same_outside):
        calibration = Calibration("pixel")
        calibration.set_statistics(*calibration.statistics(each, region.inside))
        calibrated.append(inside * calibration(normal))
    torch.testing.assert_close(*calibrated)


def test_a_state_brings_its_region_but_not_in_the_place_of_one_that_is_given(caplog: pytest.LogCaptureFixture) -> None:
    state = nn.ModuleDict({"region": Region(left_half())}).state_dict()
    for mask, expected in ((None, left_half()), (left_half(3, 4), left_half(3, 4)), (left_half(), left_half())):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            region = Region(mask)
            nn.ModuleDict({"region": region}).load_state_dict(dict(state))
        assert torch.equal(region.mask.bool(), expected)
        assert ("another region" in caplog.text) == (mask is not None and mask.shape == (3, 4))
    nn.ModuleDict({"region": Region()}).load_state_dict({})  # of an older version


def test_a_region_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the region covers nothing"):
        Region(torch.zeros(4, 4, dtype=torch.bool))
