from typing import Any

import pytest
import torch

from riad_anomalib.components.calibration import Calibration, calibrate


def test_calibration_by_hand() -> None:
    """s = (0.1 + 0.3) / 2 = 0.2; weights 0.2 / 0.3 and 0.2 / 0.5."""
    mean, std = torch.tensor([[[0.1, 0.2]]]), torch.tensor([[[0.1, 0.3]]])
    values = torch.tensor([[[[0.4, 0.7]]], [[[0.05, 0.2]]]])
    expected = torch.tensor([[[[0.3 * 2 / 3, 0.5 * 2 / 5]]], [[[0.0, 0.0]]]])
    torch.testing.assert_close(calibrate(values, mean, std), expected)


def test_calibration_never_exceeds_the_map_and_keeps_the_order_at_a_pixel() -> None:
    torch.manual_seed(0)
    mean, std = torch.rand(1, 8, 8), torch.rand(1, 8, 8)
    values = torch.rand(2, 1, 8, 8).sort(dim=0).values
    low, high = calibrate(values, mean, std)
    assert (low >= 0).all()
    assert (high >= low).all()
    assert (calibrate(values, mean, std) <= values).all()


def test_where_normal_images_do_not_vary_calibration_subtracts_their_mean() -> None:
    """A single training image: no division by its standard deviation of 0."""
    mean = torch.full((1, 2, 2), 0.25)
    result = calibrate(torch.full((1, 1, 2, 2), 0.75), mean, torch.zeros(1, 2, 2))
    torch.testing.assert_close(result, torch.full((1, 1, 2, 2), 0.5))


def test_calibration_finds_a_defect_that_a_bright_normal_region_outshines() -> None:
    torch.manual_seed(0)
    glow = torch.zeros(16, 16)
    glow[:, :8] = 1.0  # this half is hard to paint back, to a varying degree
    strength = torch.cat([torch.rand(40), torch.tensor([0.8])]).reshape(41, 1, 1, 1)
    normal = 0.1 * torch.rand(41, 1, 16, 16) + 0.5 * glow * strength
    image = normal[40:].clone()
    image[0, 0, 4, 12] = 0.3
    mean, std = normal[:40].mean(dim=0), normal[:40].std(dim=0)
    assert image[0, 0].argmax() % 16 < 8
    assert divmod(int(calibrate(image, mean, std)[0, 0].argmax()), 16) == (4, 12)


def test_statistics_of_any_size_come_with_the_state_and_are_forgotten_with_the_size() -> None:
    calibration, other = Calibration("pixel"), Calibration("pixel")
    calibration.set_statistics(torch.rand(1, 4, 6), torch.rand(1, 4, 6))
    state: dict[str, Any] = calibration.state_dict()
    other.load_state_dict(state)
    values = torch.rand(2, 1, 4, 6)
    assert torch.equal(other(values), calibrate(values, calibration.normal_mean, calibration.normal_std))
    other.forget()
    with pytest.raises(ValueError, match="the statistics of normal images are missing"):
        other(values)
    assert not torch.equal(calibration(values), values)
    calibration.load_state_dict(other.state_dict())
    assert calibration.normal_mean.numel() == 0


def test_without_calibration_a_map_stays_as_it_is() -> None:
    values = torch.rand(2, 1, 4, 6)
    assert torch.equal(Calibration("none")(values), values)
