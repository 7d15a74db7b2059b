import logging
from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn

from riad_anomalib import I3adModel
from riad_anomalib.components import batching
from riad_anomalib.models.i3ad.torch_model import THRESHOLDS, Inpainting


def build(**arguments: Any) -> I3adModel:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "channels": 3,
        "image_size": (32, 48),
        "base_width": 4,
        "attention": True,
        "coarse": True,
        "iterations": 3,
        "patch_size": 6,
        "mask_threshold": 0.2,
        "score_function": "ssim",
        "image_score": "max",
        "calibration": "none",
        "registration": "none",
        "region": None,
        "smoothing_size": 5,
    }
    return I3adModel(**{**defaults, **arguments})


class Painter(nn.Module):
    """A generator that paints this whatever it sees."""

    def __init__(self, made: Tensor) -> None:
        super().__init__()
        self.made = nn.Parameter(made, requires_grad=False)

    def forward(self, image: Tensor, removed: Tensor) -> tuple[Tensor, ...]:
        del removed
        return (self.made.expand_as(image),)


def painting(made: Tensor, **arguments: Any) -> I3adModel:
    """Return a model whose generator paints this."""
    model = build(**arguments).eval()
    model.generator = Painter(made)  # type: ignore[assignment]
    return model


def broken(number: int = 1) -> tuple[Tensor, Tensor]:
    """A normal image, and copies with a broken square."""
    torch.manual_seed(0)
    normal = torch.rand(3, 32, 48)
    image = normal.repeat(number, 1, 1, 1)
    image[:, :, 12:20, 20:28] = torch.rand(number, 3, 8, 8)
    return normal, image


@pytest.mark.parametrize("score_function", ["ssim", "squared"])
@pytest.mark.parametrize("image_score", ["max", "mean"])
def test_the_map_is_the_smoothed_difference_of_the_last_round(score_function: str, image_score: str) -> None:
    normal, image = broken(2)
    model = painting(normal, score_function=score_function, image_score=image_score)
    reconstruction = model.reconstruction(image)
    batch = model(image)
    for i in range(2):
        pairs = [(image[i, c].double().numpy(), reconstruction[i, c].double().numpy()) for c in range(3)]
        if score_function == "ssim":
            values = sum((1 - reference.ssim(*pair)) / 2 for pair in pairs) / 3
        else:
            values = sum((x - y) ** 2 for x, y in pairs) / 3
        expected = reference.mean_filter(values, 5)  # type: ignore[arg-type]
        torch.testing.assert_close(batch.anomaly_map[i, 0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
        score = expected.max() if image_score == "max" else expected.mean()
        assert batch.pred_score[i].item() == pytest.approx(score, abs=1e-5)


def test_a_perfect_painter_scores_normal_images_zero_and_finds_what_is_broken() -> None:
    normal, image = broken()
    model = painting(normal, smoothing_size=1)
    assert model(normal[None]).pred_score.item() <= 1e-6
    values = model(image).anomaly_map[0, 0]
    assert values[14:18, 22:26].min() > 0.3
    assert values[:, :14].max() < 1e-6


def test_one_iteration_is_the_checkerboards_alone_and_needs_no_threshold() -> None:
    model, image = build(iterations=1, mask_threshold=None).eval(), torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        painted = [model.generator(image, board[None].expand(2, -1, -1, -1))[-1] for board in model.boards]
        expected = sum(made * board for made, board in zip(painted, model.boards, strict=True))
        torch.testing.assert_close(model.reconstruction(image), expected)
        assert model(image).anomaly_map.isfinite().all()


def test_training_draws_half_strokes_a_quarter_checkerboards_a_quarter_blobs() -> None:
    model = build(image_size=(48, 48)).train()
    torch.manual_seed(0)
    removed = model.random_removed(2000, torch.device("cpu"))
    board = (removed[:, None] == model.boards).flatten(2).all(dim=2).any(dim=1)
    # 2000 draws of probability 1/4: a standard deviation of 0.01
    assert board.float().mean().item() == pytest.approx(0.25, abs=0.04)
    shares = removed[~board].float().mean(dim=(1, 2, 3))
    # Strokes are uniform over 0.1 to 0.5, blobs over 0.01 to 0.3: two thirds of the others are strokes.
    assert (shares > 0.3).float().mean().item() == pytest.approx(2 / 3 * 0.5, abs=0.04)
    assert (shares < 0.1).float().mean().item() == pytest.approx(1 / 3 * 0.09 / 0.29, abs=0.03)


def test_training_paints_what_was_removed_of_the_whole_batch() -> None:
    model, image = build().train(), torch.rand(4, 3, 32, 48)
    torch.manual_seed(1)
    made = model(image)
    assert isinstance(made, Inpainting)
    assert [stage.shape for stage in made.painted] == [image.shape] * 2
    for stage, expected in zip(made.painted, model.generator(image, made.removed), strict=True):
        assert torch.equal(stage, expected)
    assert not torch.equal(made.removed[0], made.removed[1])


@pytest.mark.parametrize(
    ("comes_back_at", "expected"), [(0.0, 0.05), (0.05, 0.05), (0.22, 0.25), (0.3, 0.3), (0.5, 0.5)]
)
def test_the_threshold_is_the_smallest_at_which_normal_images_come_back(comes_back_at: float, expected: float) -> None:
    model = build(mask_threshold=None)
    model.choose_threshold(lambda threshold: 0.001 if threshold >= comes_back_at else 0.0011)
    assert model.threshold == pytest.approx(expected)


def test_the_greatest_threshold_is_warned_of_where_even_that_leaves_too_much(caplog: pytest.LogCaptureFixture) -> None:
    model = build(mask_threshold=None)
    with caplog.at_level(logging.WARNING):
        model.choose_threshold(lambda _: 0.5)
    assert model.threshold == pytest.approx(THRESHOLDS[-1])
    assert "mask_threshold of 0.5, more than 0.001 of normal images' pixels stay removed: train longer" in caplog.text


def test_what_stays_removed_is_the_share_of_each_image_that_still_differs() -> None:
    normal, image = broken(2)
    model = painting(normal, mask_threshold=None)
    image[0] = normal
    share = model.still_removed(image, 0.2)
    assert share[0] == 0
    assert 64 / (32 * 48) * 0.5 < share[1] < 18 * 18 / (32 * 48)  # the square and half a window around it
    assert model.still_removed(image, 0.001)[1] > share[1]


def test_the_chosen_threshold_goes_with_the_weights_and_a_given_one_wins() -> None:
    model, image = build(mask_threshold=None).eval(), torch.rand(1, 3, 32, 48)
    with pytest.raises(ValueError, match=r"mask_threshold is None, and none has been chosen: .*train with validation"):
        model(image)
    model.choose_threshold(lambda threshold: float(threshold < 0.4))
    loaded, given = build(mask_threshold=None).eval(), build(mask_threshold=0.1).eval()
    for other in (loaded, given):
        other.load_state_dict(model.state_dict())
    assert loaded.threshold == pytest.approx(0.4)
    assert torch.equal(loaded(image).anomaly_map, model(image).anomaly_map)
    assert given.threshold == 0.1
    loaded.load_state_dict(build().state_dict())  # whose threshold was given
    loaded.set_image_size((32, 64))
    with pytest.raises(ValueError, match="none has been chosen"):
        loaded(torch.rand(1, 3, 32, 64))


def test_scoring_goes_in_parts_where_the_whole_would_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = build().eval(), list[int]()
    image = torch.rand(3, 3, 32, 48)
    with torch.no_grad():
        whole = model.reconstruction(image)
        monkeypatch.setattr(batching, "_MAX_FEATURE_VALUES_CPU", 6 * 4 * 32 * 48)  # six copies
        model.generator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        torch.testing.assert_close(model.reconstruction(image), whole)
    assert sizes == [6, 6, 3, 3]


def test_grey_images_of_one_channel() -> None:
    model = build(channels=1)
    assert model.train()(torch.rand(2, 1, 32, 48)).painted[-1].shape == (2, 1, 32, 48)
    assert model.eval()(torch.rand(1, 1, 32, 48)).pred_score.shape == (1,)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("iterations", 0, "iterations is 0: it must be at least 1, the paper's is 30"),
        ("iterations", 2.0, "iterations is 2.0: it must be a whole number"),
        ("patch_size", 0, r"patch_size is 0: squares must be at least 1 pixel wide, .* \(32x48\)"),
        ("patch_size", 32, "patch_size is 32: squares must be"),
        ("patch_size", "6", "patch_size is '6': it must be a whole number"),
        ("mask_threshold", -0.1, r"mask_threshold is -0.1: it must be in \[0, 1\], or None"),
        ("mask_threshold", 1.1, r"mask_threshold is 1.1: it must be in \[0, 1\], or None"),
        ("mask_threshold", "auto", "mask_threshold is 'auto': it must be a finite number"),
        ("score_function", "msgms", r"score_function is 'msgms': choose one of \['ssim', 'squared'\]"),
        ("image_score", "sum", r"image_score is 'sum': choose one of \['max', 'mean'\]"),
        ("calibration", "avgmap", r"calibration is 'avgmap': choose one of \['none', 'pixel'\]"),
        ("smoothing_size", 20, "smoothing_size is 20: it must be a positive odd number"),
        ("image_size", (32, 50), "image size 32x50: sides must be multiples of 4, at least 8: set 32x48 or 32x52"),
        ("image_size", (4, 48), "image size 4x48: sides must be multiples of 4, at least 8: set 8x48"),
        ("base_width", 6, "base_width is 6: it must be a positive multiple of 4"),
        ("base_width", 0, "base_width is 0: it must be a positive multiple of 4"),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{argument: value})
