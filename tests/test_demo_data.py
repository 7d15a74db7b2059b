from pathlib import Path

import numpy as np
import pytest
from anomalib.data import MVTecAD
from PIL import Image

from riad_anomalib import demo_data


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_data.make_demo_data(tmp_path_factory.mktemp("datasets"))


def test_anomalib_reads_it_as_mvtec_ad(category: Path) -> None:
    data = MVTecAD(root=category.parent, category=demo_data.CATEGORY, num_workers=0)
    data.prepare_data()
    data.setup()
    assert len(data.train_data) == demo_data.NUM_TRAIN
    labels = data.test_data.samples.label_index
    assert (labels == 0).sum() == demo_data.NUM_TEST_GOOD
    assert (labels == 1).sum() == len(demo_data.DEFECTS) * demo_data.NUM_TEST_PER_DEFECT
    broken = next(data.test_data[i] for i, label in enumerate(labels) if label)
    assert broken.gt_mask is not None
    assert broken.gt_mask.shape[-2:] == (demo_data.SIZE, demo_data.SIZE)


def test_every_view_is_a_view_of_its_own(category: Path) -> None:
    images = [path.read_bytes() for path in category.glob("t*/good/*.png")]
    assert len(set(images)) == len(images) == demo_data.NUM_TRAIN + demo_data.NUM_TEST_GOOD


def test_masks_mark_what_was_changed_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    view = rng.random((demo_data.SIZE, demo_data.SIZE, 3))
    for name, spoil in demo_data.DEFECTS.items():
        image, mask = spoil(view, rng)
        changed = (image != view).any(axis=-1)
        assert not (changed & ~mask).any(), name
        assert changed[mask].mean() > 0.99, name
        assert 50 < mask.sum() < 0.1 * mask.size, name


def test_it_is_the_same_every_time_and_is_not_made_twice(category: Path, tmp_path: Path) -> None:
    picture = category / "test/stain/000.png"
    before = picture.stat().st_mtime_ns
    demo_data.make_demo_data(category.parent)
    assert picture.stat().st_mtime_ns == before
    again = demo_data.make_demo_data(tmp_path)
    for path in sorted(category.rglob("*.png"))[::20]:
        same = again / path.relative_to(category)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(same)))


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_data, "DEFECTS", {"stain": fail})
    monkeypatch.setattr(demo_data, "NUM_TRAIN", 1)
    monkeypatch.setattr(demo_data, "NUM_TEST_GOOD", 1)
    with pytest.raises(KeyboardInterrupt):
        demo_data.make_demo_data(tmp_path)
    assert list(tmp_path.iterdir()) == []
