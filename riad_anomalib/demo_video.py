"""A few seconds of footage in UCSD Ped's folder layout, made of photographs that scikit-image ships.

The camera stands still above gravel, coins roll over it, and the lamp flickers a little. In the test clips a piece of
another picture, a cat, comes through: what no training clip has seen.

    python -m riad_anomalib.demo_video datasets/demo

anomalib reads it with ``UCSDped(root="datasets/demo", category="coins")``.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage import data, transform

from .demo_data import save, written_whole

CATEGORY = "coins"
NUM_TRAIN_CLIPS = 4
NUM_TEST_CLIPS = 2
NUM_FRAMES = 40
"""Frames of a clip."""
HEIGHT, WIDTH = 96, 144
RADIUS = 9
"""A coin's, in pixels; the intruder is half as large again."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Random = np.random.Generator


def _roll(frames: Array, thing: Array, rng: Random, start: int, number: int) -> Mask:
    """Let a round thing cross from one side to the other, in place.

    Args:
        frames: ``(T, H, W)`` in [0, 1].
        thing: Its picture ``(2r + 1, 2r + 1)``.
        rng: Where, which way and how it turns.
        start: The frame in which it appears.
        number: How many frames it takes to cross.

    Returns:
        Where it is, ``(T, H, W)``.
    """
    radius = len(thing) // 2
    row = int(rng.integers(radius, HEIGHT - radius))
    columns = np.linspace(-radius, WIDTH + radius, number).round().astype(int)[:: int(rng.choice([-1, 1]))]
    turn = rng.uniform(-20, 20)
    rows, places = np.mgrid[:HEIGHT, :WIDTH]
    is_there = np.zeros(frames.shape, dtype=bool)
    for frame, column in enumerate(columns, start=start):
        if 0 <= frame < len(frames):
            where = np.hypot(rows - row, places - column) <= radius
            turned = transform.rotate(thing, turn * frame, mode="edge")
            frames[frame][where] = turned[rows[where] - row + radius, places[where] - column + radius]
            is_there[frame] = where
    return is_there


def _picture(photograph: Array, radius: int) -> Array:
    """Return a square part of a photograph at the size of a thing."""
    side = 2 * radius + 1
    small: Array = transform.resize(photograph, (side, side), anti_aliasing=True)
    return small


def make_clip(rng: Random, with_intruder: bool) -> tuple[Array, Mask]:
    """Return a clip ``(T, H, W)`` in [0, 1], and where the intruder is."""
    ground = transform.resize(data.gravel()[:341] / 255, (HEIGHT, WIDTH), anti_aliasing=True)
    frames = np.repeat(0.3 + 0.4 * ground[None], NUM_FRAMES, axis=0)  # (T, H, W)
    coin = _picture(data.coins()[14:74, 305:365] / 255, RADIUS)
    for start in (-20, 0, 15):
        _roll(frames, coin, rng, start + int(rng.integers(0, 8)), int(rng.integers(28, 36)))
    where = np.zeros(frames.shape, dtype=bool)
    if with_intruder:
        cat = _picture(data.chelsea()[60:220, 120:280].mean(axis=2) / 255, RADIUS * 3 // 2)
        where = _roll(frames, cat, rng, int(rng.uniform(0.3, 0.45) * NUM_FRAMES), NUM_FRAMES // 2)
    flicker = rng.uniform(0.98, 1.02, size=(NUM_FRAMES, 1, 1))
    return (frames * flicker + rng.normal(0, 0.01, frames.shape)).clip(0, 1), where


def _save(frames: Array, folder: Path, suffix: str) -> None:
    for number, frame in enumerate(frames, start=1):
        save(frame, folder / f"{number:03}{suffix}")


def make_demo_video(root: Path, seed: int = 0) -> Path:
    """Write the clips to ``root/coins``, unless they are there already.

    Args:
        root: Folder for data sets in UCSD Ped's layout.
        seed: Seed of what moves where.

    Returns:
        The category's folder: ``Train/Train001`` and so on, ``Test/Test001`` and its masks ``Test/Test001_gt``.
    """
    category = root / CATEGORY
    if category.exists():
        return category
    rng = np.random.default_rng(seed)
    with written_whole(category) as new:
        for clip in range(1, NUM_TRAIN_CLIPS + 1):
            _save(make_clip(rng, with_intruder=False)[0], new / f"Train/Train{clip:03}", ".tif")
        for clip in range(1, NUM_TEST_CLIPS + 1):
            frames, where = make_clip(rng, with_intruder=True)
            _save(frames, new / f"Test/Test{clip:03}", ".tif")
            _save(where.astype(np.float64), new / f"Test/Test{clip:03}_gt", ".bmp")
    return category


def main() -> None:
    """Make the clips from the command line."""
    parser = argparse.ArgumentParser(description="Make a few seconds of footage in UCSD Ped's layout from photographs.")
    parser.add_argument("root", type=Path, help="folder for data sets; the clips go to ROOT/coins")
    print(make_demo_video(parser.parse_args().root))  # noqa: T201


if __name__ == "__main__":
    main()
