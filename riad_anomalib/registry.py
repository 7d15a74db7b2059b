"""The names that anomalib finds models by. Standard library only."""

import logging
import re
import sys
from typing import Any

logger = logging.getLogger(__name__)

registered: dict[str, type[Any]] = {}
"""Models by their alias; :mod:`riad_anomalib` has every one of them as an attribute of that name."""

_named: list[type[Any]] = []


def alias(name: str) -> str:
    """Return a class name as anomalib spells those of its own models.

    Example:
        >>> alias("Riad"), alias("InpaintingGan")
        ('riad', 'inpainting_gan')
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def is_taken(name: str) -> bool:
    """Tell whether anomalib brings a model of its own of this class name; then ours stays back."""
    theirs = getattr(sys.modules["anomalib.models"], name, None)
    taken = getattr(theirs, "__module__", "").startswith("anomalib.")
    if taken:
        logger.info("anomalib brings a %s of its own; this package's stays reachable by its full path.", name)
    return taken


def register(model: type[Any]) -> None:
    """Let anomalib find a model by the names that its own models have, such as ``Riad`` and ``riad``.

    Args:
        model: Direct subclass of ``AnomalibModule``.
    """
    if is_taken(model.__name__):
        return
    # get_model({"class_path": "Riad"}) and `from anomalib.models import Riad`
    setattr(sys.modules["anomalib.models"], model.__name__, model)
    # jsonargparse takes names from imported subclasses and tells upper from lower case. It finds the lower-case name
    # here, imports riad_anomalib.<name>, and that is the model itself: results and saved configs carry one name.
    name = alias(model.__name__)
    registered[name] = model
    _named.append(type(name, (model,), {"__module__": "riad_anomalib"}))


def public_path(class_path: str) -> str:
    """Return the path of the class that an alias's path stands for, and any other path as it is.

    Example:
        >>> public_path("anomalib.models.Patchcore")
        'anomalib.models.Patchcore'
    """
    package, _, name = class_path.rpartition(".")
    if package != "riad_anomalib" or name not in registered:
        return class_path
    model = registered[name]
    package = model.__module__.partition(".")[0]
    return f"{package if hasattr(sys.modules[package], model.__name__) else model.__module__}.{model.__name__}"
