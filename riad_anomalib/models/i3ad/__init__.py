"""I3AD: iterative inpainting with a structural-similarity mask for anomaly detection ([I3AD])."""

from riad_anomalib.registry import register

from .lightning_model import I3ad
from .loss import I3adLoss
from .torch_model import I3adModel

__all__ = ["I3ad", "I3adLoss", "I3adModel"]

register(I3ad)
