"""What a checkpoint may bring to a model that was built with other arguments."""

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from anomalib.models.components import AnomalibModule

from riad_anomalib.registry import alias

logger = logging.getLogger(__name__)


def _plain(argument: Any) -> Any:  # noqa: ANN401
    """Make a list of a tuple: whoever overrides a checkpoint's argument may give either."""
    return list(argument) if isinstance(argument, tuple) else argument


def _differences(
    checkpoint: Mapping[str, Any],
    arguments: Mapping[str, Any],
    names: Sequence[str],
    kind: Callable[[Any], Any] = _plain,
) -> list[str]:
    """Say which of these arguments are, by kind, others in a checkpoint than here."""
    saved = checkpoint.get("hyper_parameters", {})
    return [
        f"{name} is {saved[name]} there and {arguments[name]} here"
        for name in names
        if name in saved and kind(saved[name]) != kind(arguments[name])
    ]


def _arguments_of(model: type[Any]) -> set[str]:
    return {*inspect.signature(model.__init__).parameters} - {"self"}


def check_model(checkpoint: Mapping[str, Any], model: type[Any], parameters: Collection[str] = ()) -> None:
    """Refuse the checkpoint of another model, whose it is.

    Args:
        checkpoint: What was loaded.
        model: The class of the model that it is for, which declares ``network_arguments``.
        parameters: The names of the model's parameters in its checkpoints.

    Raises:
        ValueError: If it is of another model.
    """
    saved, own = {*checkpoint.get("hyper_parameters", {})}, _arguments_of(model)
    if not saved and parameters and not any(name in checkpoint["state_dict"] for name in parameters):
        whose = "of another model"
    elif saved <= own:
        return
    else:
        # A user's subclass may have arguments of its own and is no stranger.
        others = [other for other in AnomalibModule.__subclasses__() if saved <= _arguments_of(other)]
        if not others and saved.issuperset(model.network_arguments):
            return
        whose = f"of another model, with the arguments {', '.join(sorted(saved))}"
        if others:
            name = min(others, key=lambda other: len(_arguments_of(other))).__name__
            whose = f"of {name} (--model {alias(name)})"
    msg = f"the checkpoint is {whose}, and this is {model.__name__}: give that model, or a checkpoint of this one"
    raise ValueError(msg)


def drop(checkpoint: Mapping[str, Any], prefix: str) -> None:
    """Take what begins like this out of a checkpoint's weights: the model that it is for has no such part."""
    weights: MutableMapping[str, Any] = checkpoint["state_dict"]
    for name in [name for name in weights if name.startswith(prefix)]:
        del weights[name]


def check_network(
    checkpoint: Mapping[str, Any],
    arguments: Mapping[str, Any],
    names: Sequence[str],
    model: str,
    switches: Sequence[str] = (),
) -> None:
    """Refuse the weights of another network.

    Args:
        checkpoint: What was loaded.
        arguments: The arguments of the model that it is for.
        names: Those that make another network.
        model: The model's name.
        switches: Those of which it matters only whether they are 0.

    Raises:
        ValueError: If one of them differs.
    """
    differences = _differences(checkpoint, arguments, names) + _differences(checkpoint, arguments, switches, bool)
    if differences:
        msg = (
            f"the checkpoint holds another network: {' and '.join(differences)}; build the model with the checkpoint's "
            f"values, or use {model}.load_from_checkpoint, which takes them over by itself"
        )
        raise ValueError(msg)


def warn_of_other_scores(checkpoint: Mapping[str, Any], arguments: Mapping[str, Any], names: Sequence[str]) -> None:
    """Warn where the checkpoint's thresholds are not for the scores of the model that it is for."""
    if differences := _differences(checkpoint, arguments, names):
        message = "The checkpoint's thresholds are for other scores than this model's: %s."
        logger.warning(message, " and ".join(differences))
