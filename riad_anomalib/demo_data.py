"""A small data set in MVTec AD's folder layout, made of photographs that scikit-image ships.

The product is the cup in scikit-image's coffee photograph, seen by a camera that is never quite still: every image is
a view of its own, shifted, turned, zoomed, brightened and noisy. Test images are other views than training images.

    python -m riad_anomalib.demo_data datasets/demo
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data, draw, filters, transform

CATEGORY = "coffee"
NUM_TRAIN = 100
NUM_TEST_GOOD = 16
NUM_TEST_PER_DEFECT = 6
SIZE = 256

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Random = np.random.Generator


def _view(photograph: Array, rng: Random) -> Array:
    """Return the cup from a slightly different place, ``(SIZE, SIZE, 3)`` in [0, 1]."""
    height, width = photograph.shape[:2]
    centre = np.array([width / 2, height / 2])
    zoom = 1.45 * rng.uniform(0.98, 1.02)
    shift = rng.uniform(-4, 4, size=2)
    turn = transform.EuclideanTransform(rotation=np.deg2rad(rng.uniform(-2, 2)))
    # From the view's pixels to the photograph's: to the origin, zoom and turn, to the centre of the cup.
    where = (
        transform.EuclideanTransform(translation=(-SIZE / 2, -SIZE / 2))
        + transform.SimilarityTransform(scale=zoom)
        + turn
        + transform.EuclideanTransform(translation=centre + shift)
    )
    view: Array = transform.warp(photograph, where, output_shape=(SIZE, SIZE), order=1, mode="reflect")
    view = view * rng.uniform(0.95, 1.05) + rng.normal(0, 0.006, view.shape)
    return view.clip(0, 1)


def _place(rng: Random) -> Array:
    """Return row and column of a defect's centre, away from the image's border."""
    return rng.uniform(0.25 * SIZE, 0.75 * SIZE, size=2)


def _blob(rng: Random, radius: float) -> Mask:
    """Return a random round-ish region of about this radius."""
    noise = filters.gaussian(rng.normal(size=(SIZE, SIZE)), sigma=radius / 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    row, column = _place(rng)
    distance = np.hypot(rows - row, columns - column)
    blob: Mask = distance < radius * (1 + 0.3 * noise / noise.std())
    return blob


def _scratch(view: Array, rng: Random) -> tuple[Array, Mask]:
    """Scrape a bright line."""
    row, column = _place(rng)
    angle, length, half_width = rng.uniform(0, np.pi), rng.uniform(40, 80), rng.uniform(1.5, 2.5)
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [(row, column) + a * length / 2 * along + b * half_width * across for a, b in signs]
    mask = draw.polygon2mask((SIZE, SIZE), np.array(corners))
    return np.where(mask[..., None], 0.3 * view + 0.65, view), mask


def _stain(view: Array, rng: Random) -> tuple[Array, Mask]:
    """Grow something green, with gravel's grain."""
    mask = _blob(rng, rng.uniform(14, 22))
    grain = data.gravel()[:SIZE, :SIZE, None] / 255
    return np.where(mask[..., None], 0.2 * view + 0.8 * grain * np.array([0.6, 0.7, 0.4]), view), mask


def _foreign_object(view: Array, rng: Random) -> tuple[Array, Mask]:
    """Drop a coin."""
    coin = transform.resize(data.coins()[14:74, 305:365] / 255, (48, 48))
    row, column = _place(rng).astype(int)
    disk = np.zeros((SIZE, SIZE), dtype=bool)
    disk[draw.disk((row, column), 21)] = True
    pasted = np.zeros((SIZE, SIZE))
    pasted[row - 24 : row + 24, column - 24 : column + 24] = coin
    return np.where(disk[..., None], pasted[..., None] * np.array([1.0, 0.9, 0.7]), view), disk


def _misplaced(view: Array, rng: Random) -> tuple[Array, Mask]:
    """Show another part of the same scene."""
    mask = _blob(rng, rng.uniform(16, 24))
    elsewhere = np.roll(view[:, ::-1], shift=int(rng.integers(80, 120)), axis=0)
    return np.where(mask[..., None], elsewhere, view), mask


DEFECTS: dict[str, Callable[[Array, Random], tuple[Array, Mask]]] = {
    "foreign_object": _foreign_object,
    "misplaced": _misplaced,
    "scratch": _scratch,
    "stain": _stain,
}


def save(image: Array, path: Path) -> None:
    """Write an image ``(H, W)`` or ``(H, W, 3)`` in [0, 1], and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().astype(np.uint8)).save(path)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Give a folder under another name, which becomes this one once all is written.

    An interrupted run leaves no half data set behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        new = Path(unfinished, folder.name)
        yield new
        shutil.move(new, folder)


def make_demo_data(root: Path, seed: int = 0) -> Path:
    """Write the data set to ``root/coffee``, unless it is there already.

    Args:
        root: Folder for data sets in MVTec AD's layout.
        seed: Seed of views and defects.

    Returns:
        The category's folder: ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>``, PNG
        images of 256x256.
    """
    category = root / CATEGORY
    if category.exists():
        return category
    photograph = data.coffee() / 255
    rng = np.random.default_rng(seed)
    with written_whole(category) as new:
        for i in range(NUM_TRAIN):
            save(_view(photograph, rng), new / f"train/good/{i:03}.png")
        for i in range(NUM_TEST_GOOD):
            save(_view(photograph, rng), new / f"test/good/{i:03}.png")
        for defect, spoil in DEFECTS.items():
            for i in range(NUM_TEST_PER_DEFECT):
                image, mask = spoil(_view(photograph, rng), rng)
                save(image, new / f"test/{defect}/{i:03}.png")
                save(mask.astype(np.float64), new / f"ground_truth/{defect}/{i:03}_mask.png")
    return category


def main() -> None:
    """Make the data set from the command line."""
    parser = argparse.ArgumentParser(description="Make a small data set in MVTec AD's layout from photographs.")
    parser.add_argument("root", type=Path, help="folder for data sets; the category goes to ROOT/coffee")
    print(make_demo_data(parser.parse_args().root))  # noqa: T201


if __name__ == "__main__":
    main()
