import numpy as np
import pytest
import reference
import torch

from riad_anomalib.components.smoothing import check_smoothing_size, mean_filter, mean_score, window_size


@pytest.mark.parametrize("size", [1, 3, 7, 21])
def test_the_mean_filter_agrees_with_the_slow_loop(size: int) -> None:
    torch.manual_seed(0)
    values = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    np.testing.assert_allclose(
        mean_filter(values, size)[0, 0].numpy(), reference.mean_filter(values[0, 0].numpy(), size)
    )


@pytest.mark.parametrize("repeats", [0, 1, 3])
def test_the_filter_is_applied_again_to_what_it_made(repeats: int) -> None:
    torch.manual_seed(0)
    values = torch.rand(2, 2, 16, 24, dtype=torch.float64)
    for i, j in np.ndindex(2, 2):
        expected = values[i, j].numpy()
        for _ in range(repeats):
            expected = reference.mean_filter(expected, 5)
        np.testing.assert_allclose(mean_filter(values, 5, repeats)[i, j].numpy(), expected)


def test_the_mean_score_by_hand() -> None:
    assert mean_score(torch.tensor([[[[0.0, 0.25], [0.25, 0.5]]], [[[1.0, 0.0], [0.0, 0.0]]]])).tolist() == [0.25, 0.25]


def test_the_mean_filter_leaves_a_uniform_map_as_it_is() -> None:
    torch.testing.assert_close(mean_filter(torch.full((1, 1, 32, 32), 0.3), 21), torch.full((1, 1, 32, 32), 0.3))


@pytest.mark.parametrize(
    ("given", "side", "pixels"),
    [(21, 128, 21), (np.int64(5), 128, 5), (0.08, 256, 21), (0.08, 128, 11), (0.001, 64, 1)],
)
def test_the_window_is_in_pixels_or_follows_the_shorter_side(given: float, side: int, pixels: int) -> None:
    check_smoothing_size(given)
    assert window_size(given, (side, 2 * side)) == pixels
