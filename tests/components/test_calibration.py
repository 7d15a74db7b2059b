from typing import Any

import numpy as np
import pytest
import reference
import torch

from riad_anomalib.components.calibration import CALIBRATIONS, Calibration, attenuate, calibrate, likeness
from riad_anomalib.components.smoothing import mean_filter


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


def test_attenuation_by_hand() -> None:
    """The mean of a is 0.2; weights 0.2 / 0.3 and 0.2 / 0.5, to the power of 1 and 2."""
    average = torch.tensor([[[0.1, 0.3]]])
    values = torch.tensor([[[[0.3, 0.5]]], [[[0.0, 1.0]]]])
    torch.testing.assert_close(attenuate(values, average, 1), torch.tensor([[[[0.2, 0.2]]], [[[0.0, 0.4]]]]))
    torch.testing.assert_close(attenuate(values, average, 2.0), torch.tensor([[[[0.4 / 3, 0.08]]], [[[0.0, 0.16]]]]))


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_avgmap_agrees_with_the_slow_loop(power: float) -> None:
    torch.manual_seed(0)
    values, normal = torch.rand(2, 1, 12, 16, dtype=torch.float64), torch.rand(5, 1, 12, 16, dtype=torch.float64)
    calibration = Calibration("avgmap", (*CALIBRATIONS, "avgmap"), power)
    calibration.set_statistics(normal.mean(dim=0), normal.std(dim=0))
    result = calibration.after_smoothing(mean_filter(values, 3, 2), lambda maps: mean_filter(maps, 3, 2))
    expected = reference.avgmap(
        [image[0].numpy() for image in values], [image[0].numpy() for image in normal], 3, 2, power
    )
    np.testing.assert_allclose(result[:, 0].numpy(), expected)
    assert torch.equal(calibration(values), values)


def test_avgmap_leaves_maps_alone_where_normal_images_are_repaired_perfectly() -> None:
    values = torch.rand(2, 1, 4, 6)
    assert torch.equal(attenuate(values, torch.zeros(1, 4, 6), 2), values)


def test_each_of_several_maps_of_an_image_has_statistics_of_its_own() -> None:
    torch.manual_seed(0)
    values, mean, std = torch.rand(3, 2, 4, 6), torch.rand(2, 4, 6), torch.rand(2, 4, 6)
    for index, one in enumerate(values.split(1, dim=1)):
        own = slice(index, index + 1)
        torch.testing.assert_close(calibrate(values, mean, std)[:, own], calibrate(one, mean[own], std[own]))
        torch.testing.assert_close(attenuate(values, mean, 1)[:, own], attenuate(one, mean[own], 1))


@pytest.mark.parametrize("kind", ["pixel", "avgmap"])
def test_statistics_that_are_missing_are_said_to_be_missing(kind: str) -> None:
    calibration = Calibration(kind, (*CALIBRATIONS, "avgmap"))
    with pytest.raises(ValueError, match=f"calibration is '{kind}', but the statistics of normal images are missing"):
        calibration.after_smoothing(calibration(torch.rand(1, 1, 4, 6)), lambda maps: maps)


@pytest.mark.parametrize("power", [0, -1.0, float("nan")])
def test_a_power_that_is_not_positive_is_refused(power: float) -> None:
    with pytest.raises(ValueError, match=r"avgmap_power is .*: it must be"):
        Calibration("none", avgmap_power=power)


def test_without_calibration_a_map_stays_as_it_is() -> None:
    values = torch.rand(2, 1, 4, 6)
    assert torch.equal(Calibration("none")(values), values)


def maps_of(bright: list[slice]) -> torch.Tensor:
    """Return maps of 32x32, each bright in these columns, and noise."""
    values = 0.1 * torch.rand(len(bright), 1, 32, 32)
    for one, columns in zip(values, bright, strict=True):
        one[..., columns] += 1
    return values


def test_likeness_is_the_mean_correlation_with_the_mean_of_the_others() -> None:
    torch.manual_seed(0)
    values = maps_of([slice(0, 8), slice(0, 16), slice(4, 20), slice(16, 32)])
    cells = values.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2)).flatten(start_dim=1).numpy()  # 16x16
    others = [np.delete(cells, i, axis=0).mean(axis=0) for i in range(4)]
    expected = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(cells, others, strict=True)])
    assert likeness(values) == pytest.approx(expected, abs=1e-5)


def test_a_single_image_or_maps_without_contrast_are_not_alike() -> None:
    assert likeness(torch.rand(1, 1, 32, 32)) == 0
    assert likeness(torch.zeros(4, 2, 32, 32)) == 0


@pytest.mark.parametrize("alike", [True, False])
def test_auto_calibrates_where_products_lie_alike_and_says_so(alike: bool, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    starts = [4 if alike else 6 * i for i in range(4)]
    values = maps_of([slice(start, start + 8) for start in starts])
    auto, other = Calibration("auto", ("auto",)), Calibration("pixel" if alike else "none")
    with caplog.at_level("INFO"):
        auto.set_statistics(*auto.statistics(values))
    other.set_statistics(*other.statistics(values))
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(auto(image), other(image))
    (message,) = caplog.messages
    assert message.startswith("Calibrated: " if alike else "Not calibrated: ")
