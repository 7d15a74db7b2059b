from pathlib import Path

import numpy as np
import pytest
from anomalib.data import UCSDped
from PIL import Image

from riad_anomalib import demo_video


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_video.make_demo_video(tmp_path_factory.mktemp("datasets"))


def test_anomalib_reads_it_as_ucsd_ped(category: Path) -> None:
    clips = {"clip_length_in_frames": 1, "frames_between_clips": 1}
    data = UCSDped(category.parent, category.name, **clips)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    assert len(data.train_data) == demo_video.NUM_TRAIN_CLIPS * demo_video.NUM_FRAMES
    labels = [bool(data.test_data[i].gt_label) for i in range(len(data.test_data))]
    for clip in np.array_split(labels, demo_video.NUM_TEST_CLIPS):
        (first, *_, last) = np.flatnonzero(clip)
        assert 0.25 < clip.mean() < 0.75  # both kinds of frames
        assert clip[first : last + 1].all()  # one stretch


def test_the_mask_is_where_the_intruder_is(category: Path) -> None:
    clips = [np.stack([np.asarray(Image.open(file)) for file in sorted(category.glob(f"Test/Test001{kind}/*"))])
             for kind in ("", "_gt")]  # fmt: skip
    frames, masks = clips[0] / 255.0, clips[1] > 0
    away = frames[~masks.any(axis=(1, 2))].mean(axis=0)  # the ground, mostly
    there = np.abs(frames - away)
    assert there[masks].mean() > 4 * there[~masks].mean()


def test_it_is_the_same_every_time_and_is_not_made_twice(category: Path, tmp_path: Path) -> None:
    frame = category / "Test/Test001/001.tif"
    before = frame.stat().st_mtime_ns
    assert demo_video.make_demo_video(category.parent) == category
    assert frame.stat().st_mtime_ns == before
    again = demo_video.make_demo_video(tmp_path)
    assert (again / "Test/Test001/001.tif").read_bytes() == frame.read_bytes()
