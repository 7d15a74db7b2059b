"""RIAD: reconstruction by inpainting for visual anomaly detection ([RIAD])."""

from riad_anomalib.registry import register

from .lightning_model import Riad
from .loss import RiadLoss
from .torch_model import RiadModel

__all__ = ["Riad", "RiadLoss", "RiadModel"]

register(Riad)
