import warnings
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor

from riad_anomalib.components.registration import Registration
from riad_anomalib.components.variation import moved

HEIGHT, WIDTH = 64, 96


def pictures(number: int = 6) -> Tensor:
    """A product that lies alike in every picture: a smooth scene and fine grain of each picture's own."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    scene = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    return 0.25 + 0.4 * scene + 0.01 * torch.randn(number, 3, HEIGHT, WIDTH, generator=generator)


def registration(kind: str, images: Tensor | None = None) -> Registration:
    built = Registration(kind)
    built.gather(pictures() if images is None else images)
    return built


def test_shifts_turns_and_sizes_are_found_and_undone_also_under_other_light() -> None:
    images, motion = pictures(2), torch.tensor([[0.04, 0.03, -0.02, 0.03], [-0.03, -0.04, 0.03, -0.02]])
    register = registration("position")
    expected, rest = register(images)
    assert rest is not None
    assert rest.abs().max() < 0.005
    ramp = 1 + 0.1 * torch.linspace(-1, 1, WIDTH)
    shown = 0.8 * moved(images, motion[:, 0], motion[:, 1:3], 1 + motion[:, 3]) * ramp
    registered, found = register(shown)
    assert found is not None
    torch.testing.assert_close(found, motion, atol=0.006, rtol=0)
    inner = (..., slice(8, -8), slice(8, -8))
    assert (registered[inner] - expected[inner]).abs().mean() < 0.02
    assert (shown[inner] - images[inner]).abs().mean() > 0.06


@pytest.mark.parametrize(
    "lamp",
    [
        lambda image: 0.7 * image,
        lambda image: image + 0.1,
        lambda image: 0.5 + 0.7 * (image - 0.5),
        lambda image: image * torch.tensor([1.1, 1.0, 0.9])[:, None, None],
    ],
    ids=["gain", "offset", "contrast", "white balance"],
)
def test_light_is_exactly_that_of_normal_images_where_its_change_is_linear(lamp: object) -> None:
    register = registration("light")
    images = pictures()
    expected, motion = register(images)
    assert motion is None
    torch.testing.assert_close(register(lamp(images))[0], expected, atol=0.01, rtol=0)  # type: ignore[operator]
    assert (expected - images).abs().mean() < 0.01


def test_a_slope_of_light_is_undone() -> None:
    register, images = registration("light"), pictures()
    sloping = images * (1 + 0.2 * torch.linspace(-1, 1, HEIGHT))[:, None]
    assert (register(sloping)[0] - register(images)[0]).abs().mean() < 0.01
    assert (sloping - images).abs().mean() > 0.03


@pytest.mark.parametrize("lamp", [lambda image: 1.25 * image, lambda image: image + 0.1], ids=["gain", "offset"])
def test_light_that_is_cut_off_is_found_from_the_rest_and_taken_for_normal(lamp: object) -> None:
    images = pictures()
    images[..., 48:] = 0.95 + 0.01 * images[..., 48:]  # a bright ground, which another lamp makes white
    register = registration("position", images)
    expected, still = register(images)
    shown = lamp(images).clamp(0, 1)  # type: ignore[operator]
    assert (shown == 1).float().mean() > 0.4
    found, motion = register(shown)
    assert (found - expected).abs().mean() < 0.01
    assert (found - expected)[..., 44:52].abs().max() < 0.1
    torch.testing.assert_close(motion, still, atol=0.01, rtol=0)

    broken = shown.clone()
    broken[..., 30:40, 64:74] = 0  # no lamp does that to a bright ground
    assert (register(broken)[0] - expected)[..., 32:38, 66:72].abs().mean() > 0.5


def test_a_defect_makes_no_light() -> None:
    register, images = registration("position"), pictures(2)
    expected = register(images)[0]
    broken = images.clone()
    broken[..., 24:40, 30:50] = 0
    rest = (register(broken)[0] - expected)[..., 44:, :].abs().mean()
    assert rest < 0.02
    assert rest < 0.7 * (registration("light")(broken)[0] - registration("light")(images)[0])[..., 44:, :].abs().mean()


def test_a_turn_and_size_that_normal_images_have_are_left_alone() -> None:
    images = pictures(20)
    usual = 0.01 * torch.randn(20, generator=torch.Generator().manual_seed(1))
    register = registration("position", moved(images, usual, torch.zeros(20, 2), 1 + usual))

    def seen(motion: float) -> Tensor:
        many = torch.full((1,), motion)
        found = register(moved(images[:1], many, torch.tensor([[0.03, 0.0]]), 1 + many))[1]
        assert found is not None
        assert found[0, 1].item() == pytest.approx(0.03, abs=0.004)
        turn_and_size: Tensor = found[0, [0, 3]]
        return turn_and_size

    assert not seen(0.02).any()
    torch.testing.assert_close(seen(0.05), torch.tensor([0.05, 0.05]), atol=0.005, rtol=0)


def test_light_is_found_in_low_precision_too(tmp_path: Path) -> None:
    images = pictures()
    images[..., 48:] = 0.95 + 0.01 * images[..., 48:]
    register = registration("position", images).eval()
    shown = (1.15 * images[:2]).clamp(0, 1)
    expected = register(shown)[0].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx about itself
        torch.onnx.export(register, (shown,), tmp_path / "registration.onnx", opset_version=18, verbose=False)
    for precision, tolerance in {"f32": 1e-4, "bf16": 0.02}.items():  # without it, OpenVINO stays in float32
        hint = {"INFERENCE_PRECISION_HINT": precision}
        found = openvino.compile_model(tmp_path / "registration.onnx", "CPU", hint)(shown.numpy())[0]
        assert np.abs(found - expected)[..., 4:-4, 4:-4].mean() < tolerance


def test_what_lies_far_off_or_is_defective_stays_so() -> None:
    register, images = registration("position"), pictures(1)
    far = moved(images, torch.zeros(1), torch.tensor([[0.3, 0.0]]), torch.ones(1))
    _, motion = register(far)
    assert motion is not None
    assert motion[:, 1:3].abs().max() <= 0.061
    broken = images.clone()
    broken[..., 20:40, 30:50] = 0
    assert (register(broken)[0] - register(images)[0])[..., 22:38, 32:48].abs().mean() > 0.2


def test_auto_registers_position_only_where_normal_images_lie_alike() -> None:
    assert registration("auto").solver.numel()
    noise = torch.nn.functional.interpolate(torch.rand(20, 3, 16, 24), (HEIGHT, WIDTH), mode="bilinear")
    unlike = registration("auto", noise)
    assert not unlike.solver.numel()
    assert unlike(noise) == (noise, None)


def test_maps_go_back_to_where_the_picture_showed_it() -> None:
    register, images = registration("position"), pictures(1)
    images[..., 28:36, 44:52] = 1
    shown = moved(images, torch.zeros(1), torch.tensor([[0.05, -0.05]]), torch.ones(1))
    registered, motion = register(shown)
    marked = register.back((registered.amin(dim=1, keepdim=True) > 0.9).float(), motion) > 0.5
    rows, columns = marked[0, 0].nonzero().float().mean(dim=0).tolist()
    assert rows == pytest.approx(31.5 - 0.05 * HEIGHT, abs=1)
    assert columns == pytest.approx(47.5 + 0.05 * WIDTH, abs=1)


def test_statistics_are_a_state_of_their_own_shape_and_none_has_no_state() -> None:
    assert not Registration("none").state_dict()
    first, second = registration("position"), Registration("position")
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(pictures())[0], second(pictures())[0])
    Registration("none").load_state_dict(first.state_dict())
    second.load_state_dict(Registration("none").state_dict())
    with pytest.raises(ValueError, match="registration is 'position', but the statistics of normal images are missing"):
        second(pictures())
    with pytest.raises(ValueError, match=r"registration is 'affine': choose one of \['none', 'light'"):
        Registration("affine")


@pytest.mark.parametrize("kind", ["light", "position", "auto"])
def test_flat_images_stay_finite(kind: str) -> None:
    flat = torch.full((3, 3, HEIGHT, WIDTH), 0.5)
    assert registration(kind, flat)(flat)[0].isfinite().all()
    assert registration(kind)(torch.zeros_like(flat))[0].isfinite().all()
