"""Makes this package's models known to anomalib: the table of models and the start-up hook.

anomalib has no entry points for models: its command line, ``get_model`` and ``list_models`` know the classes that are
imported. Something has to import ours while anomalib starts. PyTorch calls the entry points of the group
``torch.backends`` at the end of ``import torch``, and anomalib cannot start without torch, so :func:`_autoload` stands
there. It must not import torch or anomalib (both are still on their way), so it waits for the last module that
``anomalib.models`` imports. If anomalib gains entry points of its own, one line in pyproject.toml replaces the hook.

Off switches: ``RIAD_ANOMALIB_AUTOLOAD=0`` for this hook, torch's ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` for all of them.
Without the hook ``--model riad_anomalib.Riad`` and ``python -m riad_anomalib`` still work. Standard library only,
because every ``import torch`` loads it, and never raises.
"""

import logging
import os
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from .registry import is_taken

logger = logging.getLogger(__name__)

# By the end of this one all image models and the base classes are there, and torch has been imported for good. A
# finder for anomalib.models itself would come too late where that is what imports torch.
_LAST_IMPORT = "anomalib.models.video"

MODELS = {
    "Riad": "riad_anomalib.models.riad",
    "Ssae": "riad_anomalib.models.ssae",
    "I3ad": "riad_anomalib.models.i3ad",
}
"""Every model of this package and the module that registers it when it is imported."""


class _Waiting(MetaPathFinder):
    """Imports the models right after :data:`_LAST_IMPORT`."""

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find nothing itself; ask the finders behind it, and follow up on what they found."""
        del path, target
        if fullname != _LAST_IMPORT:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader
        exec_module = loader.exec_module

        def exec_module_and_import_ours(module: ModuleType) -> None:
            del loader.exec_module  # the class's own is back
            exec_module(module)
            import_models()

        # On the instance: module.__loader__, inspect.getsource and reload see the loader that they expect.
        loader.exec_module = exec_module_and_import_ours  # type: ignore[method-assign]
        return spec


def import_models() -> None:
    """Import every model whose name anomalib has not given to one of its own; at the end of its import it registers."""
    for model, module in MODELS.items():
        if is_taken(model):
            continue
        try:
            # Where our module is what imported anomalib, it is half-imported now; this returns and its end registers.
            import_module(module)
        except Exception:  # whatever is wrong here must not take anomalib's other models away
            logger.warning("riad_anomalib could not load %s; anomalib goes on without it.", model, exc_info=True)


def _autoload() -> None:
    """Wait for anomalib; PyTorch calls this at the end of its import."""
    if os.environ.get("RIAD_ANOMALIB_AUTOLOAD") != "0":
        sys.meta_path.insert(0, _Waiting())
