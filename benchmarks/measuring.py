"""What the benchmark scripts share: test set, normal images, AUROC, cost, where it runs, tables.

torch and anomalib are imported where they are used: they would count as memory of rows that run without them.
"""

import importlib.metadata
import multiprocessing
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def test_set(root: Path, size: tuple[int, int]) -> tuple[Any, Array, Mask, Mask]:
    """Return anomalib's data module, and of the test set images, labels and masks (none: empty)."""
    from anomalib.data import Folder
    from torchvision.transforms.v2 import Resize

    masks = root / "ground_truth"
    data = Folder(
        name=root.name,
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=sorted(f"test/{path.name}" for path in (root / "test").iterdir() if path.name != "good"),
        mask_dir=sorted(f"ground_truth/{path.name}" for path in masks.iterdir()) if masks.is_dir() else None,
        val_split_mode="same_as_test",
        augmentations=Resize(size, antialias=True),
        num_workers=0,
    )
    data.setup()
    items = [data.test_data[i] for i in range(len(data.test_data))]
    found = [np.zeros(size) if item.gt_mask is None else item.gt_mask for item in items]
    return (
        data,
        np.stack([np.asarray(item.image) for item in items]),
        np.array([bool(item.gt_label) for item in items]),
        np.stack([np.asarray(mask, dtype=bool) for mask in found]) if masks.is_dir() else np.zeros(0, bool),
    )


def normal_set(data: Any) -> Any:  # noqa: ANN401
    """Return the training images that statistics are taken from, as a data module's training set sees them."""
    import torch

    from riad_anomalib.host.normal_images import normal_images

    chosen = normal_images(data.train_data, data.train_data.augmentations)
    # A frame of video comes as a clip of one.
    return torch.stack([torch.as_tensor(chosen[i].image).squeeze(0) for i in range(len(chosen))])


def auroc(scores: Array, labels: Mask) -> float:
    """Return the area under the ROC curve."""
    import torch
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(torch.from_numpy(scores).flatten(), torch.from_numpy(labels).flatten().long()))


def without_a_model(root: Path) -> tuple[float, float]:
    """Return the image AUROC, the way round that is better, that test pictures give without any model.

    Args:
        root: A folder with test/good and others beside it.

    Returns:
        Of the mean grey value, and of the greatest absolute difference from a Gaussian of 2 pixels.
    """
    import cv2
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    files = sorted(file for file in (root / "test").glob("*/*") if file.suffix.lower() in {".png", ".jpg", ".bmp"})
    pictures: list[Any] = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    greys = [picture.astype(np.float32) for picture in pictures]
    labels = [file.parent.name != "good" for file in files]
    scores = (
        [grey.mean() for grey in greys],
        [np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2)).max() for grey in greys],
    )
    mean_grey, high_pass = (float(roc_auc_score(labels, values)) for values in scores)
    return max(mean_grey, 1 - mean_grey), max(high_pass, 1 - high_pass)


def gflop(run: Callable[[Any], object], images: object) -> float:
    """Count the GFLOP of matrix products and convolutions; on the meta device nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(images)
    return float(counter.get_total_flops()) / 1e9


def in_a_process(method: str, run: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Run in a process of its own, started by this method of multiprocessing."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(run, *arguments).result()


def synchronize(device: str) -> None:
    """Wait for the device."""
    import torch

    if device != "cpu":
        torch.accelerator.synchronize()


def peak_memory(device: str = "cpu") -> float:
    """Return the most MiB that were taken: on a CPU by all of this process, NaN where Linux does not tell."""
    if device != "cpu":
        import torch

        return torch.accelerator.max_memory_allocated() / 2**20
    return process_memory("VmHWM")  # getrusage would count what the parent took before this process began


def process_memory(name: str) -> float:
    """Return the MiB that Linux gives by this name in the status of this process, NaN where it does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


def environment() -> str:
    """Say where this runs."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    device = f"{name[1] if name else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device += f", {torch.cuda.get_device_name()}"
    packages = ("riad-anomalib", "anomalib", "torch", "lightning", "torchmetrics")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return f"{device}; Python {platform.python_version()}, {', '.join(versions)}"


def row(cells: Iterable[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def table(names: Sequence[str], rows: Iterable[Iterable[str]] = ()) -> str:
    """Return a table; without rows its first two lines."""
    return "\n".join(map(row, [names, ["---"] * len(names), *rows]))
