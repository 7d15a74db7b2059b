"""Good pictures that are held out of training to find the thresholds, where there are no defective ones.

anomalib does it where a folder has no test pictures: ``test_split_ratio`` (0.2) of the training pictures are drawn to
test, half of them to validate. Here that draw is the same every time, and all of it finds the thresholds.
"""

import logging
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import Split, ValSplitMode

logger = logging.getLogger(__name__)

SEED = 0


def fix_split(datamodule: Any) -> None:  # noqa: ANN401
    """Let a data module that has no seed draw the same pictures in every process, in resumed runs and in tests.

    Otherwise a test, a second process or the rest of a training would have other pictures held out, among them some
    that the network was trained on.
    """
    if isinstance(datamodule, AnomalibDataModule) and datamodule.seed is None:
        datamodule.seed = SEED


def take_all(datamodule: Any, stage: str) -> None:  # noqa: ANN401
    """Give the validation of a data module without any defective picture all that was held out of training.

    Args:
        datamodule: Any data module, after its set-up, or None.
        stage: What for; ``"fit"`` says in the log how many there are.
    """
    parts: list[Any] = [getattr(datamodule, f"{name}_data", None) for name in ("train", "val", "test")]
    if not (isinstance(datamodule, AnomalibDataModule) and all(hasattr(part, "samples") for part in parts)):
        return
    train, val, test = parts
    if val.has_anomalous or not _is_drawn(val):
        return
    from_test = datamodule.val_split_mode == ValSplitMode.FROM_TEST and val is not test
    if from_test and not test.has_anomalous and _is_drawn(test):
        datamodule.val_data = datamodule.test_data = val = test = val + test
    if stage == "fit" and len(val):
        logger.warning(
            "%d of %d good pictures are held out of training to find the threshold%s.",
            len(val),
            len(train) + len(val) + (len(test) if test is not val and _is_drawn(test) else 0),
            ", and the test has no others: --data.test_split_ratio is their share" if test is val else "",
        )


def _is_drawn(dataset: Any) -> bool:  # noqa: ANN401
    """Tell whether all normal pictures of a data set are from those to train on."""
    samples = dataset.samples
    normal = samples[samples.label_index == 0]
    return "split" in samples and all(str(getattr(each, "value", each)) == Split.TRAIN.value for each in normal.split)


def is_all_good(loaders: Any) -> bool:  # noqa: ANN401
    """Tell whether the pictures of a trainer's loaders are known to be all good, so that there is nothing to find."""
    loaders = loaders if isinstance(loaders, list) else [loaders]
    datasets: list[Any] = [getattr(loader, "dataset", None) for loader in loaders]
    return all(hasattr(each, "has_anomalous") and len(each) and not each.has_anomalous for each in datasets)
