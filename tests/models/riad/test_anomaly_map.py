import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from riad_anomalib.components.smoothing import anomaly_score, mean_filter
from riad_anomalib.models.riad.anomaly_map import SCORE_FUNCTIONS, dissimilarity_map


def anomaly_map(image: Tensor, reconstructions: Tensor, score_function: str, smoothing_size: int) -> Tensor:
    """The paper's map, as RiadModel makes it."""
    return mean_filter(dissimilarity_map(image, reconstructions, score_function), smoothing_size)


def test_the_anomaly_map_agrees_with_the_papers_order_of_steps() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    reconstructions = torch.rand(2, 3, 1, 16, 24, dtype=torch.float64)
    result = anomaly_map(image, reconstructions, "msgms", 5)
    for i in range(2):
        expected = reference.anomaly_map(image[i, 0].numpy(), list(reconstructions[i, :, 0].numpy()), 5)
        np.testing.assert_allclose(result[i, 0].numpy(), expected, atol=1e-5)
        assert anomaly_score(result)[i].item() == pytest.approx(expected.max(), abs=1e-5)


EXACT = {"msgms": 0.0, "msgms_grey": 0.0, "ssim": 1e-6, "absolute": 0.0}


@pytest.mark.parametrize(("score_function", "most"), EXACT.items())
def test_a_perfect_reconstruction_scores_zero_up_to_the_border(score_function: str, most: float) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    assert anomaly_map(image, image.unsqueeze(1).repeat(1, 2, 1, 1, 1), score_function, 21).abs().max() <= most


@pytest.mark.parametrize("score_function", SCORE_FUNCTIONS)
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
