"""Frame AUROC of one trained network on video: with and without calibration, scores averaged over 1 and 3 frames.

    python benchmarks/video.py --checkpoint model.ckpt --root datasets/ucsd --category UCSDped2

Over all frames of all test videos together, and of each video that has frames of both kinds. Seconds are CPU seconds of
this process for a frame, the network and all maps; the network runs once, whatever is then made of its maps.

``mean picture`` needs no network: the difference from the mean of 200 training frames, relative to theirs and smoothed
as the model's maps are. ``--frames 20 40 200`` also calibrates anew, from so many of these frames.
"""

import argparse
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import UCSDped, VideoBatch
from measuring import auroc, environment, normal_set, table
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from riad_anomalib import Riad, Ssae
from riad_anomalib.components.calibration import Calibration, mean_and_std
from riad_anomalib.components.similarity import absolute_difference
from riad_anomalib.host.normal_images import spread
from riad_anomalib.host.video import FrameScores, frame_by_frame

MODELS: dict[str, type[Any]] = {"Riad": Riad, "Ssae": Ssae}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--category", default="UCSDped2")
    parser.add_argument("--model", choices=MODELS, default="Riad", help="the checkpoint's (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="the network in bfloat16")
    parser.add_argument("--frames", type=int, nargs="+", default=[], help="also calibrate with so many frames")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    model: Any = MODELS[arguments.model].load_from_checkpoint(arguments.checkpoint, map_location="cpu")
    model = model.eval().model
    resize = Resize(model.image_size, antialias=True)
    data = UCSDped(arguments.root, arguments.category, num_workers=0, augmentations=resize)
    data.setup()
    frames: Any = frame_by_frame(data.test_data)

    normal = normal_set(data)
    mean_picture, of_background = normal.mean(dim=0, keepdim=True), Calibration("pixel")
    of_background.set_statistics(*mean_and_std(absolute_difference(normal, mean_picture)))
    calibrations = {
        "none": Calibration("none"),
        model.calibration.kind: model.calibration,
        "mean picture": of_background,
    }
    if arguments.frames:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            usual = torch.cat([model.dissimilarity_map(frames) for frames in normal.split(8)])
        for number in arguments.frames:
            calibrations[f"pixel, {number} frames"] = of_frames = Calibration("pixel")
            of_frames.set_statistics(*mean_and_std(usual[spread(len(usual), number)]))
    scores = {key: FrameScores(key[1]) for key in product(calibrations, (1, 3))}
    averaged: dict[tuple[str, int], list[float]] = {key: [] for key in scores}
    labels: list[bool] = []
    seconds = 0.0
    for batch in DataLoader(frames, batch_size=8, collate_fn=VideoBatch.collate):
        start = time.process_time()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            maps = model.dissimilarity_map(batch.image)
        seconds += time.process_time() - start
        background = absolute_difference(batch.image, mean_picture)
        for (calibration, past_frames), frame_scores in scores.items():
            compared = background if calibration == "mean picture" else maps
            model.dissimilarity_map = lambda _, compared=compared: compared
            model.calibration = calibrations[calibration]
            with torch.no_grad():
                batch.pred_score = model(batch.image).pred_score
            frame_scores.take_new_frames(batch)
            averaged[calibration, past_frames] += frame_scores.averaged(batch).tolist()
        del model.dissimilarity_map
        labels += batch.gt_label.tolist()

    videos = list(next(iter(scores.values())).aurocs())
    rows = [
        [
            calibration,
            str(past_frames),
            f"{auroc(np.array(averaged[calibration, past_frames], np.float32), np.array(labels)):.3f}",
        ]
        + [f"{frame_scores.aurocs()[video]:.3f}" for video in videos]
        for (calibration, past_frames), frame_scores in scores.items()
    ]
    print(table(["calibration", "past_frames", "all videos", *videos], rows))
    print(f"{len(labels)} frames, {sum(labels)} anomalous; {seconds / len(labels):.3f} s a frame; {environment()}")


if __name__ == "__main__":
    main()
