"""What a checkpoint may bring to a model that was built with other arguments."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
