import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from riad_anomalib import RiadModel
from riad_anomalib.components import batching
from riad_anomalib.components.masking import fixed_partition


def build(**arguments: Any) -> RiadModel:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "channels": 3,
        "image_size": (32, 48),
        "region_sizes": (2, 8),
        "num_disjoint_sets": 3,
        "base_width": 4,
        "skip_connections": True,
        "score_function": "msgms",
        "calibration": "none",
        "registration": "none",
        "region": None,
        "smoothing_size": 5,
        "num_partitions": 1,
        "partition_seed": 0,
    }
    return RiadModel(**{**defaults, **arguments})


class Oracle(nn.Module):
    """Knows the true image and paints it back, for every masked copy."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image
        self.seen: list[Tensor] = []

    def forward(self, masked: Tensor) -> Tensor:
        self.seen.append(masked)
        return self.image.repeat_interleave(len(masked) // len(self.image), dim=0)


@pytest.mark.parametrize("training", [True, False])
def test_an_oracle_reassembles_to_exactly_the_image(training: bool) -> None:
    model = build().train(training)
    image = torch.rand(2, 3, 32, 48)
    model.network = Oracle(image)  # type: ignore[assignment]
    if training:
        assert torch.equal(model(image), image)
    else:
        assert torch.equal(model.reconstructions(image), image.unsqueeze(1).expand(-1, 2, -1, -1, -1))
        assert (model(image).anomaly_map == 0).all()


def test_all_masked_copies_go_through_the_network_at_once_and_cover_every_pixel_once() -> None:
    model = build()
    image = torch.rand(2, 3, 32, 48) + 0.1  # nothing is zero before masking
    oracle = Oracle(image)
    model.network = oracle  # type: ignore[assignment]
    model.train()(image)
    model.eval()(image)
    in_training, at_inference = oracle.seen
    removed = (in_training.unflatten(0, (2, 3)) == 0).all(dim=2)
    assert (removed.sum(dim=1) == 1).all()
    assert not torch.equal(removed[0], removed[1])  # a partition for every image
    removed = (at_inference.unflatten(0, (2, 2, 3)) == 0).all(dim=3)
    assert (removed.sum(dim=2) == 1).all()
    assert torch.equal(removed[0], removed[1])  # the same for every image
    for index, region_size in enumerate((2, 8)):
        expected = fixed_partition(32, 48, region_size, 3, seed=0)
        assert torch.equal(removed[0, index].int().argmax(dim=0), expected)


def test_the_map_of_several_partitions_is_the_mean_of_their_maps() -> None:
    image, last_seed = torch.rand(2, 3, 32, 48), 2**32 - 1
    with torch.no_grad():
        # The seeds go on from the last one to 0: two partitions from there are the ones of these two seeds.
        maps = [build(partition_seed=seed).eval()(image).anomaly_map for seed in (last_seed, 0)]
        both = build(partition_seed=last_seed, num_partitions=2).eval()(image).anomaly_map
    assert not torch.allclose(*maps)
    torch.testing.assert_close(both, torch.stack(maps).mean(dim=0))


def test_training_draws_every_region_size_and_ever_new_partitions() -> None:
    model = build()
    drawn = [model.random_removed(1, torch.device("cpu"))[0, :, 0] for _ in range(40)]
    assert len({removed.numpy().tobytes() for removed in drawn}) == 40
    # A partition of 8x8 regions looks the same at every second pixel as at its neighbour; of 2x2 it does not.
    coarse = [torch.equal(removed[:, 1:7, :], removed[:, 2:8, :]) for removed in drawn]
    assert 5 < sum(coarse) < 35


def test_in_training_all_copies_go_together_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, batch norm would see other batches."""
    model, sizes = build(), list[int]()
    model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(batching, "_MAX_FEATURE_VALUES_CPU", 4 * 4 * 32 * 48)  # four copies
    with torch.no_grad():
        model.train()(torch.rand(3, 3, 32, 48))
        model.eval()(torch.rand(3, 3, 32, 48))
    assert sizes == [9, 4, 4, 4, 4, 2]


def test_the_papers_setting_takes_one_image_in_one_part_on_a_gpu() -> None:
    copies = 4 * 3
    assert math.ceil(copies * 64 * 256 * 256 / batching._MAX_FEATURE_VALUES) == 1


def test_grey_images_of_one_channel() -> None:
    model = build(channels=1)
    assert model.train()(torch.rand(1, 1, 32, 48)).shape == (1, 1, 32, 48)
    assert model.eval()(torch.rand(1, 1, 32, 48)).pred_score.shape == (1,)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (
            "score_function",
            "psnr",
            r"score_function is 'psnr': choose one of \['msgms', 'msgms_grey', 'ssim', 'absolute'\]",
        ),
        ("smoothing_size", 20, "smoothing_size is 20: it must be a positive odd number"),
        ("smoothing_size", 0, "smoothing_size is 0"),
        ("num_partitions", 0, "num_partitions is 0: it must be at least 1"),
        ("partition_seed", -1, "partition_seed is -1: it must be in"),
        ("region_sizes", (), "region_sizes is empty"),
        ("image_size", (32, 50), "image size 32x50 is not a multiple of region size 8"),
        ("num_disjoint_sets", 1, "num_disjoint_sets is 1"),
        ("base_width", 0, "base_width is 0"),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{argument: value})
