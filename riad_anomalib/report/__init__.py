"""A page to look at results: pictures, scores, a threshold to move. Without torch and anomalib."""

from .drawing import Image, heat_over, jpeg, outline
from .order import in_order
from .page import Report

__all__ = ["Image", "Report", "heat_over", "in_order", "jpeg", "outline"]
