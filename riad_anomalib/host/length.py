"""How long training takes, and how far it has come."""

import logging
import math
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)


def callbacks(trainer: Trainer) -> Sequence[Callback]:
    """Return a trainer's callbacks."""
    given: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set outside of Trainer's own class
    return given


def set_default_epochs(trainer: Trainer, epochs: int) -> None:
    """Let training take so many epochs if the user gave no length at all, neither epochs nor steps nor time.

    anomalib puts ``trainer_arguments`` above what the user gives, so the default cannot stand there. This is called
    when a model meets its trainer: a moment later Lightning puts its own 1000 epochs in the place of None.
    """
    if (
        trainer.state.fn == TrainerFn.FITTING
        and trainer.max_epochs is None
        and trainer.max_steps == -1
        and not any(isinstance(callback, Timer) for callback in callbacks(trainer))
    ):
        trainer.fit_loop.max_epochs = epochs


def warn_of_unseen_epochs(trainer: Trainer) -> None:
    """Say before training, not after, that the last validation comes before its end, or that there is none."""
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every and epochs and epochs > 0 and (unseen := epochs % every):
        logger.warning(
            "The last %d of %d epochs come after the last validation, which finds the thresholds and leaves the "
            "checkpoint: let max_epochs be a multiple of check_val_every_n_epoch, which is %d.",
            unseen,
            epochs,
            every,
        )


def warn_of_early_end(trainer: Trainer, drop_at: float) -> None:
    """Say before training that what is planned over its length may come late or never.

    Args:
        trainer: The trainer at work.
        drop_at: Share of the planned length after which all is done that follows it.
    """
    planned = {"max_epochs": trainer.max_epochs or -1, "max_steps": trainer.max_steps}
    given = {name: length for name, length in planned.items() if length > 0}
    least = {"max_epochs": trainer.min_epochs, "max_steps": trainer.min_steps}
    stops = [type(each).__name__ for each in callbacks(trainer) if isinstance(each, EarlyStopping)]
    advice = ""
    if not given and not any(isinstance(each, Timer) for each in callbacks(trainer)):
        stops, advice = ["Nothing but you"], "give max_epochs"
    elif stops and not any((least[name] or 0) >= math.floor(drop_at * length) for name, length in given.items()):
        needed = [f"min_{name[4:]} to {math.ceil(drop_at * length)}" for name, length in given.items()]
        advice = f"set {needed[0]}" if needed else "give max_epochs, and min_epochs"
    if advice:
        logger.warning(
            "%s may end training early. What follows its planned length, as the learning rate, which drops after "
            "%.0f%% of it, and the size of crops do, would stay as it begins: %s.",
            stops[0],
            100 * drop_at,
            advice,
        )


def progress(trainer: Trainer, step: int) -> float:
    """Return the share of training that is over, by whichever limit is nearer: epochs, steps or time.

    Args:
        trainer: The trainer at work.
        step: Steps of the optimizer that are done.
    """
    share = step / max(trainer.estimated_stepping_batches, 1)
    for timer in callbacks(trainer):
        if isinstance(timer, Timer) and (remaining := timer.time_remaining()) is not None:
            elapsed = timer.time_elapsed()
            share = max(share, elapsed / (elapsed + remaining))
    return share


def step_schedule(module: LightningModule, optimizer: Optimizer, drop_at: float) -> OptimizerLRScheduler:
    """Return what ``configure_optimizers`` returns: a learning rate that drops to a tenth after a share of training.

    Args:
        module: The module that is trained, however long that is.
        optimizer: Its optimizer.
        drop_at: Share of training in [0, 1].
    """
    warn_of_early_end(module.trainer, drop_at)
    schedule = LambdaLR(optimizer, lambda step: 1.0 if progress(module.trainer, step) < drop_at else 0.1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
