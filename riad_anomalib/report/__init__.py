"""A page to look at results: pictures, scores, a threshold to move. Without torch and anomalib."""

from .drawing import Image, heat_over, jpeg, outline

__all__ = ["Image", "heat_over", "jpeg", "outline"]
