"""What the rounds of a trained I3AD do to its AUROC, with and without calibration; or a picture of them.

    python benchmarks/iteration.py --checkpoint model.ckpt --root datasets/MVTecAD/grid
    python benchmarks/iteration.py --checkpoint model.ckpt --picture broken.png --output rounds.jpg

The folder is laid out as MVTec AD's categories. A row is a number of rounds, with the generator's passes an image and
the share of pixels that the last of them painted, of 40 training images and of test images; then image and pixel AUROC
on the test images. The threshold of the mask is the checkpoint's, or chosen with the most rounds if it has none.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from measuring import auroc, row, table, test_set
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from riad_anomalib import I3ad
from riad_anomalib.components.calibration import calibrate
from riad_anomalib.components.smoothing import mean_filter, window_size
from riad_anomalib.host.normal_images import normal_images
from riad_anomalib.models.i3ad.iteration import Round
from riad_anomalib.models.i3ad.torch_model import IMAGE_SCORES, SCORE_FUNCTIONS, I3adModel


def rounds_of(model: I3adModel, images: Tensor, iterations: int) -> list[Round]:
    """Return each round of all images."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        each = [model.rounds(image, iterations) for image in images.split(1)]
    return [Round(*(torch.cat(parts) for parts in zip(*same, strict=True))) for same in zip(*each, strict=True)]


def print_table(model: I3adModel, root: Path, numbers: list[int]) -> None:
    """Print the AUROC after each of these numbers of rounds."""
    data, pictures, labels, masks = test_set(root, model.image_size)
    chosen = normal_images(data.train_data, data.train_data.augmentations)
    normal = torch.stack([torch.as_tensor(chosen[i].image) for i in range(len(chosen))])
    images = torch.from_numpy(pictures)
    model.iterations = max(numbers)
    if model.mask_threshold is None and not model.chosen_threshold.numel():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            model.choose_threshold(
                lambda u: float(torch.cat([model.still_removed(x, u) for x in normal.split(1)]).mean())
            )
    print(f"threshold {float(model.threshold):.2f}\n")
    print(table(["rounds", "passes", "painted: normal, %", "test, %", "none", "pixel"]))
    of_normal, of_test = (rounds_of(model, batch, max(numbers)) for batch in (normal, images))
    compare, score = SCORE_FUNCTIONS[model.score_function], IMAGE_SCORES[model.image_score]
    for number in numbers:
        same, seen = of_normal[number - 1], of_test[number - 1]
        usual, values = compare(normal, same.reconstruction), compare(images, seen.reconstruction)
        cells = []
        for differing in (values, calibrate(values, usual.mean(dim=0), usual.std(dim=0, correction=0))):
            values_map = mean_filter(differing, window_size(model.smoothing_size, model.image_size))
            cells.append(f"{auroc(score(values_map).numpy(), labels):.3f}")
            if masks.size:
                cells[-1] += f" / {auroc(values_map.numpy(), masks):.3f}"
        painted = [f"{100 * made.removed.float().mean():.2f}" for made in (same, seen)]
        print(row([f"{number}", f"{number + 3}", *painted, *cells]), flush=True)


def draw(model: I3adModel, picture: Path, numbers: list[int]) -> Image.Image:
    """Return two rows of pictures; what a mask removes is white.

    The image, the first round's four masks, the last reconstruction; the first reconstruction, the mask that follows
    from each of these rounds, the map, as bright as it gets.
    """
    with Image.open(picture) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).movedim(-1, 0)[None] / 255
    image = F.interpolate(pixels, model.image_size, mode="bilinear", antialias=True)
    rounds = rounds_of(model, image, max(numbers) + 1)
    first, last = (rounds[number - 1].reconstruction for number in (1, max(numbers)))
    values_map = SCORE_FUNCTIONS[model.score_function](image, last)
    values_map = mean_filter(values_map, window_size(model.smoothing_size, model.image_size))
    boards = [image.masked_fill(board, 1.0) for board in model.boards]
    masked = [image.masked_fill(rounds[number].removed, 1.0) for number in numbers]
    rows = [image, *boards, last], [first, *masked, (values_map / values_map.max()).expand_as(image)]
    most = max(map(len, rows))
    padded = [
        [F.pad(panel, (2, 2, 2, 2), value=1.0) for panel in (line + [torch.ones_like(image)] * most)[:most]]
        for line in rows
    ]
    strip = torch.cat([torch.cat(line, dim=3) for line in padded], dim=2)
    return Image.fromarray((255 * strip[0].clamp(0, 1).movedim(0, -1)).round().byte().numpy())


def main() -> None:
    """Print the table, or write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--root", type=Path)
    what.add_argument("--picture", type=Path)
    parser.add_argument("--mask-threshold", type=float, help="another one than the checkpoint's")
    parser.add_argument("--output", type=Path, default=Path("rounds.jpg"))
    parser.add_argument("--enlarge", type=int, default=1, help="the picture, so many times")
    parser.add_argument("--rounds", type=int, nargs="+", help="1 5 10, of a picture 1 2 5 10 unless given")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    others = {} if arguments.mask_threshold is None else {"mask_threshold": arguments.mask_threshold}
    loaded = I3ad.load_from_checkpoint(arguments.checkpoint, map_location="cpu", **others)
    model: I3adModel = loaded.eval().model  # type: ignore[assignment]  # I3ad's
    if arguments.root:
        print_table(model, arguments.root, arguments.rounds or [1, 5, 10])
    else:
        strip = draw(model, arguments.picture, arguments.rounds or [1, 2, 5, 10])
        size = strip.width * arguments.enlarge, strip.height * arguments.enlarge
        strip.resize(size, Image.Resampling.NEAREST).save(arguments.output, quality=85)


if __name__ == "__main__":
    main()
