"""Models of anomalib that detect anomalies by what they cannot reconstruct: RIAD, I3AD (inpainting), SSAE (filtering).

The public names are loaded when they are first used, because PyTorch loads :mod:`riad_anomalib.plugin` at the end of
its own import, and with it this module.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .plugin import MODELS
from .registry import alias, registered

if TYPE_CHECKING:
    from .host import ReconstructionVisualizer as ReconstructionVisualizer
    from .host import ReportVisualizer as ReportVisualizer
    from .host import VerdictPostProcessor as VerdictPostProcessor
    from .host import VideoVisualizer as VideoVisualizer
    from .models.i3ad import I3ad as I3ad
    from .models.i3ad import I3adLoss as I3adLoss
    from .models.i3ad import I3adModel as I3adModel
    from .models.riad import Riad as Riad
    from .models.riad import RiadLoss as RiadLoss
    from .models.riad import RiadModel as RiadModel
    from .models.ssae import Ssae as Ssae
    from .models.ssae import SsaeLoss as SsaeLoss
    from .models.ssae import SsaeModel as SsaeModel

_modules = {model + part: module for model, module in MODELS.items() for part in ("", "Loss", "Model")}
_modules |= dict.fromkeys(
    ("ReconstructionVisualizer", "ReportVisualizer", "VerdictPostProcessor", "VideoVisualizer"),
    "riad_anomalib.host",
)

__all__ = [*sorted(_modules), "__version__"]  # noqa: PLE0604  # from the table


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        return version("riad-anomalib")
    if name in _modules:
        return getattr(import_module(_modules[name]), name)
    # jsonargparse imports an alias by this path, and gets the class that it stands for.
    for model in MODELS:
        if name == alias(model):
            return __getattr__(model)
    if name in registered:
        return registered[name]
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
