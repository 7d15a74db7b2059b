"""SSAE on pictures in their own size: trained on crops, whole everywhere else, in one pass or in strips, exported."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from engine_contract import engine
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image

from riad_anomalib import Ssae, deploy
from riad_anomalib.components.corruption import corrupt
from riad_anomalib.components.region import Region
from riad_anomalib.deploy import large
from riad_anomalib.deploy.inference import infer_requests, load_model
from riad_anomalib.deploy.sources import decode
from riad_anomalib.host.crops import Crops
from riad_anomalib.models.ssae import lightning_model
from riad_anomalib.models.ssae.torch_model import SsaeModel
from riad_anomalib.strips import OVERLAP

LARGE: dict[str, Any] = {
    "image_size": None,
    "crop_size": (16, 24),
    "base_width": 2,
    "dilations": (1,),
    "image_score": "max",
    "smoothing_size": 3,
    "smoothing_repeats": 1,
    "crop_scales": [1],
}


def build(**arguments: Any) -> Ssae:
    torch.manual_seed(0)
    return Ssae(**{**LARGE, **arguments})


def result(model: Ssae, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        batch = model.eval().model(image)
    return batch.anomaly_map, batch.pred_score


@pytest.fixture
def mixed(folder: Folder, tmp_path: Path) -> Folder:
    """Let each picture, and its mask, have another size than the next."""
    good, bad, masks = (sorted((tmp_path / each).iterdir()) for each in ("images/good", "images/bad", "masks"))
    for files in (good, bad, masks):
        for number, file in enumerate(files):
            with Image.open(file) as picture:
                larger = picture.crop((0, 0, 56 + 3 * (number % 2), 40 + number % 2))
            larger.save(file)
    return folder


class Watch(Callback):
    """Sizes of the images that reach the model."""

    def __init__(self) -> None:
        self.training: set[tuple[int, ...]] = set()
        self.whole: set[tuple[int, ...]] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        del trainer
        pl_module.model.register_forward_pre_hook(
            lambda module, inputs: (self.training if module.training else self.whole).add(tuple(inputs[0].shape))
        )


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_training_sees_crops_and_all_else_whole_pictures_of_any_size(
    mixed: Folder, tmp_path: Path, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    seed_everything(0)
    watch, model = Watch(), build(scale=scale)
    run = engine(tmp_path, max_epochs=1, limit_train_batches=3, callbacks=[watch])
    with caplog.at_level(logging.WARNING):
        run.fit(model, datamodule=mixed)
    assert watch.training == {(2, 3, 16, 24)}
    assert {shape[0] for shape in watch.whole} == {1}
    assert len(watch.whole) > 1
    assert "eval_batch_size is 1, not 2" in caplog.text
    assert "100 of each picture an epoch. 4 of 4 pictures are kept in memory" in caplog.text
    assert {"image_AUROC", "pixel_AUROC"} <= set(run.test(model, datamodule=mixed)[0])
    predicted: Any = run.predict(model, data_path=tmp_path / "images/bad", ckpt_path=run.best_model_path)
    sizes = [Image.open(batch.image_path[0]).size[::-1] for batch in predicted]
    assert [tuple(batch.anomaly_map.shape[-2:]) for batch in predicted] == sizes
    fresh = Ssae(image_size=(32, 32))
    with pytest.raises(ValueError, match="image_size is None there and"):
        engine(tmp_path).test(fresh, datamodule=mixed, ckpt_path=run.best_model_path)


def test_crops_are_decoded_once_while_memory_lasts_and_are_the_pictures_own_pixels(
    mixed: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed.setup()
    seen: list[int] = []
    pictures: Any = mixed.train_data
    whole = [pictures[i].image for i in range(len(pictures))]
    original = type(pictures).__getitem__

    def counting(self: Any, index: int) -> Any:
        seen.append(index)
        return original(self, index)

    monkeypatch.setattr(type(pictures), "__getitem__", counting)
    one = 3 * 41 * 59 / 2**20  # MiB of the largest
    crops = Crops(pictures, (8, 8), kept_mib=2 * one)  # type: ignore[arg-type]
    del seen[:]
    for index in range(10):
        crop: Any = crops[index].image
        windows = whole[index % 4].unfold(1, 8, 1).unfold(2, 8, 1)  # (C, Y, X, 8, 8)
        assert torch.isclose(windows, crop[:, None, None]).all(dim=(0, 3, 4)).any()
    assert sorted(set(seen)) == [2, 3]
    assert len(crops) == 400


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("size", [(40, 56), (33, 70), (7, 5)])
def test_a_map_has_the_pictures_size_and_shows_where_a_mark_is(scale: float, size: tuple[int, int]) -> None:
    model = build(scale=scale)
    anomaly_map, pred_score = result(model, torch.rand(2, 3, *size))
    assert anomaly_map.shape == (2, 1, *size)
    assert torch.equal(pred_score, anomaly_map.amax(dim=(1, 2, 3)))
    torch.testing.assert_close(result(model, torch.full((1, 3, *size), 0.5))[0].shape, (1, 1, *size))


def test_a_multiple_of_the_stride_needs_no_padding() -> None:
    whole, fixed = build(), build(image_size=(48, 64), crop_size=None)
    image = torch.rand(1, 3, 48, 64)
    torch.testing.assert_close(result(whole, image), result(fixed, image))


def test_strips_give_the_map_of_one_pass_away_from_cuts_and_nearly_so_beside_them() -> None:
    image = torch.rand(1, 3, 5 * OVERLAP + 3, 24)
    one, strips = build(), build(memory=1)
    assert strips.model.memory == 1
    whole, score = result(one, image)
    calls: list[int] = []
    strips.model.networks[0].register_forward_pre_hook(lambda _module, inputs: calls.append(inputs[0].shape[-2]))
    rows = (2 * OVERLAP + 64) // 8 * 8
    strips.model.memory = 10**6
    torch.testing.assert_close(result(strips, image)[0], whole)
    assert calls == [5 * OVERLAP + 8]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("riad_anomalib.models.ssae.torch_model.rows_in", lambda *_: rows)
        cut, cut_score = result(strips, image)
    assert len(calls) > 3
    assert (cut - whole).abs().max() <= 1e-3 * whole.max()
    assert (cut_score - score).abs() <= 1e-3 * whole.max()
    strips.model.memory = 1
    with pytest.raises(ValueError, match=r"are too narrow: .* are needed"):
        result(strips, torch.rand(1, 3, 3 * OVERLAP, 4096))


@pytest.mark.filterwarnings("ignore")  # torch.onnx and OpenVINO warn about themselves
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_export_takes_any_size_and_knows_the_region(tmp_path: Path, scale: float) -> None:
    mask = np.zeros((30, 45), np.uint8)
    mask[6:25, 9:40] = 255
    Image.fromarray(mask).save(tmp_path / "region.png")
    model = build(scale=scale, region=str(tmp_path / "region.png"), post_processor=False).eval()
    compiled = openvino.compile_model(model.to_openvino(tmp_path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in ((40, 56), (61, 83), (24, 130)):
        image = torch.rand(1, 3, *size)
        anomaly_map, pred_score = result(model, image)
        outputs = compiled(image.numpy())
        np.testing.assert_allclose(outputs["anomaly_map"], anomaly_map, atol=1e-5)
        np.testing.assert_allclose(outputs["pred_score"], pred_score, atol=1e-5)
        outside = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)) == 0
        assert (anomaly_map[0, 0].numpy()[outside] == 0).all()
        assert (anomaly_map[0, 0].numpy()[~outside] > 0).all()


@pytest.mark.filterwarnings("ignore")  # torch.onnx, Lightning and OpenVINO have advice
def test_deploy_in_strips_tells_what_one_pass_tells(
    mixed: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed_everything(0)
    mask = np.zeros((40, 56), np.uint8)
    mask[3:, 5:50] = 255
    Image.fromarray(mask).save(tmp_path / "region.png")
    model = build(region=str(tmp_path / "region.png"))
    run = engine(tmp_path, max_epochs=1, limit_train_batches=2)
    run.fit(model, datamodule=mixed)
    path = model.to_openvino(tmp_path)
    pictures = tmp_path / "tall"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for name, height in (("a", 4 * OVERLAP), ("b", 30), ("c", 5 * OVERLAP + 5)):
        Image.fromarray(rng.integers(0, 256, (height, 2048, 3), np.uint8)).save(pictures / f"{name}.png")
    cost = large.cost_of(openvino.Core().read_model(path))
    assert cost.shrinks_by == 1
    memory = int(np.ceil((2 * OVERLAP + 64) * cost.bytes * 2048 / 2**20))
    results = []
    for limits in (None, large.Limits(memory)):
        compiled = load_model(path, "CPU", "latency", "f32", 1, limits.prepare if limits else None)
        images = ((each.name, decode(each.read_bytes())) for each in sorted(pictures.iterdir()))
        found = large.infer_within(limits, infer_requests(compiled, "latency"), images, lambda *_: None)
        results.append(list(found))
    assert [result.name for result in results[1]] == ["a.png", "b.png", "c.png"]
    for one, other in zip(*results, strict=True):
        assert one.pred_score == pytest.approx(other.pred_score, abs=1e-4)
        assert one.pred_label == other.pred_label
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=1e-4)
    assert deploy.main([str(path), str(pictures), "--memory", str(memory)]) == 0
    assert capsys.readouterr().out.count("\n") == 5
    capsys.readouterr()
    assert deploy.main([str(path), str(pictures), "--memory", "1"]) == 1
    assert "is 2048 pixels wide, of which the least strip takes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": None}, "give a crop_size to train on"),
        ({"crop_size": 20}, "crop size 20x20 is not a multiple of 8: set crop_size to 16x16 or 24x24"),
        ({"crop_size": 64, "image_size": 32}, r"crop_size \[64, 64\] does not fit into image_size \[32, 32\]"),
        ({"smoothing_size": 0.04}, "give an odd number of pixels"),
        ({"calibration": "pixel"}, "calibration is 'pixel', which is gathered at the pixels of one size"),
        ({"registration": "auto"}, "registration is 'auto', which is gathered at the pixels of one size"),
        ({"scale": 0.3}, "scale is 0.3: choose one of"),
        ({"image_size": 32, "scale": 0.5}, "both are for pictures in their own size"),
        ({"memory": 100, "image_score": "mean"}, "strips need a positive number of MiB, and 'max'"),
        ({"memory": 0}, "strips need a positive number of MiB"),
        ({"augmentation": "dihedral"}, "turns images by 90 degrees, but they are 16x24"),
        ({"region": "nowhere.png"}, "region nowhere.png cannot be read"),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_calibration_auto_finds_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not build(calibration="auto").model.calibration.needs_statistics
    assert "Not calibrated" in caplog.text


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
def test_a_picture_smaller_than_a_crop_is_refused_before_training(mixed: Folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\d.png is 4\dx5\d pixels, smaller than a crop of 48x48"):
        engine(tmp_path, max_epochs=1).fit(build(crop_size=(24, 24), scale=0.5), datamodule=mixed)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_crops_of_resized_pictures_lie_anywhere_and_each_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def watched(image: torch.Tensor, *arguments: Any, **shares: Any) -> Any:
        seen.append(image)
        return corrupt(image, *arguments, **shares)

    monkeypatch.setattr(lightning_model, "corrupt", watched)
    model = build(image_size=(64, 64), crop_size=(16, 16)).train()
    place = torch.arange(64.0) / 64
    image = torch.stack([place[:, None].expand(64, 64), place.expand(64, 64), torch.zeros(64, 64)]).expand(8, 3, 64, 64)
    model.training_step(ImageBatch(image=image), 0)
    assert seen[0].shape == (8, 3, 16, 16)
    corners = seen[0][:, :2, 0, 0]
    assert len(corners.unique(dim=0)) > 4


def test_the_torch_model_takes_a_region_too() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 1:3] = True
    model: SsaeModel = build().model
    whole = model.eval()(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    model.region = Region(mask)
    part = model(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[9:23, 9:23] = True  # a pixel away from the border, whose mean knows nothing of the rest
    torch.testing.assert_close(part.anomaly_map[0, 0, inside], whole.anomaly_map[0, 0, inside])
