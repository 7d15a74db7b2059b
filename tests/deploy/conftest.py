from pathlib import Path

import pytest
import torch
from inspections import export, picture, write_video
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
    torch.manual_seed(0)
    model = Riad(base_width=2, image_size=(32, 48), smoothing_size=3, region_sizes=(4, 8, 16))
    return export(model, pictures, tmp_path_factory.mktemp("exported"), {"image": (0, 1), "pixel": (0, 1)})


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "belt.avi", 6)
