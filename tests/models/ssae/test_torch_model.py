from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn

from riad_anomalib import SsaeModel
from riad_anomalib.components import batching


def build(**arguments: Any) -> SsaeModel:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "channels": 3,
        "image_size": (32, 48),
        "objective": "filter",
        "base_width": 4,
        "kernel_size": 3,
        "dilations": (1, 2),
        "score_function": "squared",
        "image_score": "mean",
        "smoothing_size": 5,
        "smoothing_repeats": 3,
        "calibration": "none",
        "registration": "none",
        "region": None,
        "scale": 1.0,
        "memory": None,
        "avgmap_power": 1.0,
    }
    return SsaeModel(**{**defaults, **arguments})


class Filter(nn.Module):
    """A network that makes this of every image."""

    def __init__(self, made: Tensor) -> None:
        super().__init__()
        self.made = made

    def forward(self, image: Tensor) -> Tensor:
        return self.made.expand_as(image)


def test_the_map_agrees_with_the_papers_order_of_steps() -> None:
    image, made = torch.rand(2, 3, 32, 48), torch.rand(3, 32, 48)
    model = build().eval()
    model.networks[0] = Filter(made)
    batch = model(image)
    for i in range(2):
        expected = ((image[i] - made) ** 2).double().mean(dim=0).numpy()
        for _ in range(3):
            expected = reference.mean_filter(expected, 5)
        torch.testing.assert_close(batch.anomaly_map[i, 0].double(), torch.from_numpy(expected), atol=1e-6, rtol=0)
        assert batch.pred_score[i].item() == pytest.approx(expected.mean(), abs=1e-6)
    assert build(image_score="max").eval()(image).pred_score.shape == (2,)


@pytest.mark.parametrize("score_function", ["squared", "ssim"])
def test_a_perfect_reconstruction_scores_zero_and_the_opposite_scores_one_at_most(score_function: str) -> None:
    image = (torch.rand(1, 3, 32, 48) < 0.5).float()
    model = build(score_function=score_function, smoothing_repeats=0).eval()
    model.networks[0] = Filter(image[0])
    assert model(image).anomaly_map.abs().max() <= 1e-6
    model.networks[0] = Filter(1 - image[0])
    values = model(image).anomaly_map
    assert values.mean() > 0.5
    assert values.max() <= 1


def test_the_maximum_of_the_map_is_a_score_and_sees_a_small_defect() -> None:
    image = torch.zeros(2, 3, 32, 48)
    image[1, :, 8:12, 8:12] = 1
    made = torch.zeros(3, 32, 48)
    for image_score, expected in (("max", 1.0), ("mean", 16 / (32 * 48))):
        model = build(image_score=image_score, smoothing_size=3, smoothing_repeats=1).eval()
        model.networks[0] = Filter(made)
        assert model(image).pred_score.tolist() == pytest.approx([0, expected])


def test_an_ensemble_takes_the_maximum_of_maps_each_with_its_own_statistics() -> None:
    model = build(objective="ensemble", calibration="pixel").eval()
    image = torch.rand(2, 3, 32, 48)
    mean, std = 0.1 * torch.rand(2, 32, 48), 0.1 * torch.rand(2, 32, 48)
    model.calibration.set_statistics(mean, std)
    singles = []
    for index in range(2):
        single = build(calibration="pixel").eval()
        single.networks[0] = model.networks[index]
        single.calibration.set_statistics(mean[index : index + 1], std[index : index + 1])
        singles.append(single(image).anomaly_map)
    assert not torch.equal(*singles)
    torch.testing.assert_close(model(image).anomaly_map, torch.maximum(*singles))
    assert torch.equal(model.reconstruction(image), model.networks[0](image))  # the one that repairs
    assert model.dissimilarity_map(image).shape == (2, 2, 32, 48)


def test_the_two_networks_of_an_ensemble_start_apart() -> None:
    first, second = build(objective="ensemble").train()(torch.rand(2, 3, 32, 48)).unbind(dim=1)
    assert not torch.allclose(first, second)


def test_training_takes_whole_images_and_crops_and_nothing_else() -> None:
    model = build().train()
    for size in ((32, 48), (16, 24), (32, 8)):
        assert model(torch.rand(2, 3, *size)).shape == (2, 1, 3, *size)
    for shape in ((2, 3, 40, 48), (2, 3, 20, 24), (2, 1, 16, 24), (3, 16)):
        with pytest.raises(ValueError, match=r"built for \(N, [13], "):
            model(torch.rand(shape))
    with pytest.raises(ValueError, match=r"built for \(N, 3, 32, 48\)"):
        model.eval()(torch.rand(2, 3, 16, 24))


def test_in_training_a_batch_goes_together_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, batch norm would see other batches."""
    model, sizes = build(), list[int]()
    model.networks[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(batching, "_MAX_FEATURE_VALUES_CPU", 2 * 4 * 32 * 48)  # two images
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 32, 48))
        model.eval()(torch.rand(4, 3, 32, 48))
        model.reconstruction(torch.rand(1, 3, 32, 48))
    assert sizes == [4, 2, 2, 1]


def test_grey_images_of_one_channel() -> None:
    model = build(channels=1)
    assert model.train()(torch.rand(2, 1, 32, 48)).shape == (2, 1, 1, 32, 48)
    assert model.eval()(torch.rand(1, 1, 32, 48)).pred_score.shape == (1,)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("objective", "repair", "objective is 'repair': choose one of"),
        ("score_function", "msgms", r"score_function is 'msgms': choose one of \['squared', 'ssim'\]"),
        ("image_score", "sum", r"image_score is 'sum': choose one of \['mean', 'max'\]"),
        ("image_score", ["max"], r"image_score is \['max'\]: choose one of"),
        ("calibration", "image", r"calibration is 'image': choose one of \['none', 'pixel', 'auto', 'avgmap'\]"),
        ("avgmap_power", 0, "avgmap_power is 0: it must be greater than 0"),
        ("smoothing_size", 20, "smoothing_size is 20: it must be a positive odd number"),
        ("smoothing_repeats", -1, "smoothing_repeats is -1: it must be at least 0"),
        ("smoothing_repeats", 1.5, "smoothing_repeats is 1.5: it must be a whole number"),
        ("image_size", (32, 50), "image size 32x50 is not a multiple of 8: set image_size to 32x48 or 32x56"),
        ("base_width", 0, "base_width is 0"),
        ("kernel_size", 2, "kernel_size is 2"),
        ("dilations", (), "dilations is"),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{argument: value})
