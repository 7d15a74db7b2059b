import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from riad_anomalib.models.riad.anomaly_map import anomaly_score, calibrate, dissimilarity_map, mean_filter


def anomaly_map(image: Tensor, reconstructions: Tensor, score_function: str, smoothing_size: int) -> Tensor:
    """The paper's map, as RiadModel makes it."""
    return mean_filter(dissimilarity_map(image, reconstructions, score_function), smoothing_size)


@pytest.mark.parametrize("size", [1, 3, 7, 21])
def test_the_mean_filter_agrees_with_the_slow_loop(size: int) -> None:
    torch.manual_seed(0)
    values = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    np.testing.assert_allclose(
        mean_filter(values, size)[0, 0].numpy(), reference.mean_filter(values[0, 0].numpy(), size)
    )


def test_the_mean_filter_leaves_a_uniform_map_as_it_is() -> None:
    torch.testing.assert_close(mean_filter(torch.full((1, 1, 32, 32), 0.3), 21), torch.full((1, 1, 32, 32), 0.3))


def test_the_anomaly_map_agrees_with_the_papers_order_of_steps() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    reconstructions = torch.rand(2, 3, 1, 16, 24, dtype=torch.float64)
    result = anomaly_map(image, reconstructions, "msgms", 5)
    for i in range(2):
        expected = reference.anomaly_map(image[i, 0].numpy(), list(reconstructions[i, :, 0].numpy()), 5)
        np.testing.assert_allclose(result[i, 0].numpy(), expected, atol=1e-5)
        assert anomaly_score(result)[i].item() == pytest.approx(expected.max(), abs=1e-5)


@pytest.mark.parametrize(("score_function", "most"), [("msgms", 0.0), ("msgms_grey", 0.0), ("ssim", 1e-6)])
def test_a_perfect_reconstruction_scores_zero_up_to_the_border(score_function: str, most: float) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    assert anomaly_map(image, image.unsqueeze(1).repeat(1, 2, 1, 1, 1), score_function, 21).abs().max() <= most


@pytest.mark.parametrize("score_function", ["msgms", "msgms_grey", "ssim"])
def test_the_map_grows_with_damage_where_the_damage_is(score_function: str) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    maps = []
    for strength in (0.1, 0.3):
        damaged = image.clone()
        damaged[..., 40:48, 8:16] += strength * torch.randn(8, 8)
        maps.append(anomaly_map(image, damaged.unsqueeze(1), score_function, 5)[0, 0])
    for values_map in maps:
        row, column = divmod(int(values_map.argmax()), 64)
        assert 38 <= row <= 49
        assert 6 <= column <= 17
    assert maps[1].max() > maps[0].max() > 0
    assert maps[1].min() >= -1e-6


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
