"""SSAE: the self-supervised filtering auto-encoder for visual anomaly detection ([SSAE])."""

from riad_anomalib.registry import register

from .lightning_model import Ssae
from .loss import SsaeLoss
from .torch_model import SsaeModel

__all__ = ["Ssae", "SsaeLoss", "SsaeModel"]

register(Ssae)
