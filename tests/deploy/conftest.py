import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data.utils import read_image
from inspections import NAMES, picture, write_video
from PIL import Image

from riad_anomalib import Riad


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind of file that an inspection may meet, of several sizes, in sub-folders, two with one stem."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "line 2" / "ä").mkdir(parents=True)
    Image.fromarray(picture(0)).save(folder / "a.png")
    Image.fromarray(picture(3)).save(folder / "a.jpg", quality=80)
    Image.fromarray(picture(8)).convert("L").save(folder / "grey.tif")
    Image.fromarray(picture(1)).convert("RGBA").resize((400, 300)).save(folder / "line 2" / "large.png")
    Image.fromarray(picture(5)).convert("P").save(folder / "line 2" / "ä" / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture(12)).save(folder / "line 2" / "turned.JPG", exif=exif)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A model that has seen the pictures once, with thresholds amid their scores and maps."""
    torch.manual_seed(0)
    model = Riad(base_width=2, image_size=(32, 48), smoothing_size=3, region_sizes=(4, 8, 16))
    assert model.pre_processor is not None
    with torch.no_grad():
        images = [model.pre_processor(torch.as_tensor(read_image(pictures / name, as_tensor=True))) for name in NAMES]
        model.model(torch.stack(images))  # in training mode: Riad exports no network whose batch norm saw nothing
        scored: Any = model.eval().model(torch.stack(images))
    for kind, values in (("image", scored.pred_score), ("pixel", scored.anomaly_map)):
        for name, value in ((f"_{kind}_threshold", values.quantile(0.5)), (f"{kind}_min", 0.0), (f"{kind}_max", 1.0)):
            getattr(model.post_processor, name).fill_(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx and OpenVINO warn about themselves
        folder = tmp_path_factory.mktemp("exported")
        return Path(model.to_openvino(folder, onnx_kwargs={"opset_version": 18}))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "belt.avi", 6)
