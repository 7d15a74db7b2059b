from pathlib import Path
from typing import Any

import pytest
from anomalib.data import Folder
from blur import Blur
from engine_contract import Record, engine
from lightning.pytorch.callbacks import EarlyStopping

pytestmark = [pytest.mark.filterwarnings("ignore:The "), pytest.mark.filterwarnings("ignore:.*isinstance.treespec")]


@pytest.mark.parametrize(
    ("given", "epochs", "steps"),
    [
        ({}, 20, 40),
        ({"max_epochs": 6}, 6, 12),
        ({"max_steps": 6}, -1, 6),
        ({"max_epochs": 6, "max_steps": 4}, 6, 4),
    ],
)
def test_the_learning_rate_drops_after_five_sixths_of_the_true_length(
    given: dict[str, Any],
    epochs: int,
    steps: int,
    folder: Folder,
    tmp_path: Path,
) -> None:
    record = Record()
    engine(tmp_path, callbacks=[record], **given).fit(Blur(image_size=(16, 16), lr=0.5), datamodule=folder)
    assert record.max_epochs == epochs
    drop = [i for i, rate in enumerate(record.learning_rates) if rate == pytest.approx(0.05)]
    assert len(record.learning_rates) == steps
    assert record.learning_rates[0] == 0.5
    assert drop == list(range(-(-steps * 5 // 6), steps))


def test_a_time_limit_holds_and_the_learning_rate_follows_it(folder: Folder, tmp_path: Path) -> None:
    record = Record()
    run = engine(tmp_path, callbacks=[record], max_time={"seconds": 3}, check_val_every_n_epoch=1000)
    run.fit(Blur(image_size=(16, 16), lr=0.5), datamodule=folder)
    assert record.max_epochs == -1
    assert record.learning_rates[0] == 0.5
    assert record.learning_rates[-1] == pytest.approx(0.05)
    late = sum(rate < 0.1 for rate in record.learning_rates) / len(record.learning_rates)
    assert 0.02 < late < 0.5


@pytest.mark.parametrize(
    ("epochs", "unseen"), [(1, "The last 1 of 1 epochs"), (5, "The last 1 of 5 epochs"), (4, None)]
)
def test_epochs_that_no_validation_sees_are_told_before_training(
    epochs: int,
    unseen: str | None,
    folder: Folder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = engine(tmp_path, max_epochs=epochs, check_val_every_n_epoch=2)
    run.fit(Blur(image_size=(16, 16)), datamodule=folder)
    warnings = [record.getMessage() for record in caplog.records if "after the last validation" in record.getMessage()]
    assert len(warnings) == (unseen is not None)
    if unseen:
        assert warnings[0].startswith(unseen)
        assert "a multiple of check_val_every_n_epoch, which is 2" in warnings[0]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"max_epochs": 7, "callbacks": [EarlyStopping("train_loss")]}, "set min_epochs to 6"),
        ({"max_steps": 10, "callbacks": [EarlyStopping("train_loss")]}, "set min_steps to 9"),
        ({"max_epochs": -1}, "give max_epochs"),
        ({"max_epochs": 7, "min_epochs": 6, "callbacks": [EarlyStopping("train_loss")]}, None),
        ({"max_epochs": 7}, None),
        ({}, None),
    ],
)
def test_training_that_may_end_before_what_its_length_plans_is_told_of(
    given: dict[str, Any],
    advice: str | None,
    folder: Folder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks = [*given.pop("callbacks", []), Record(stop=True)]
    engine(tmp_path, callbacks=callbacks, **given).fit(Blur(image_size=(16, 16)), datamodule=folder)
    warnings = [record.getMessage() for record in caplog.records if "may end training early" in record.getMessage()]
    assert len(warnings) == (advice is not None)
    if advice:
        assert "which drops after 83% of it" in warnings[0]
        assert warnings[0].endswith(f"{advice}.")
