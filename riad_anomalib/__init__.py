"""RIAD, reconstruction by inpainting for visual anomaly detection, as a model of anomalib.

The public names are loaded when they are first used, because PyTorch loads :mod:`riad_anomalib.plugin` at the end of
its own import, and with it this module.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.riad import ReconstructionVisualizer, Riad, RiadLoss, RiadModel

__all__ = ["ReconstructionVisualizer", "Riad", "RiadLoss", "RiadModel", "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        return version("riad-anomalib")
    if name in __all__:
        return getattr(import_module(".models.riad", __name__), name)
    # jsonargparse imports the alias of plugin.py by its path, and gets the class that it stands for.
    if name == "riad":
        return __getattr__("Riad")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
