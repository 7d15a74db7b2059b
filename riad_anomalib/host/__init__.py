"""How a model of this package lives in anomalib: length, pre-processing, statistics, checkpoints, exports, pictures.

Nothing here knows a model. :class:`HostMixin` hangs these modules' functions into Lightning's and anomalib's hooks.

anomalib's models come first, and with them, by the start-up hook, this package's, which take what they need from the
modules here: whatever is imported first, nothing of this package is half-imported while anomalib looks for models.
"""

import anomalib.models  # noqa: F401

from .length import progress, step_schedule
from .module import HostMixin
from .post_processing import VerdictPostProcessor
from .pre_processing import height_and_width
from .report_visualizer import ReportVisualizer
from .video import check_past_frames
from .visualizer import ReconstructionVisualizer, VideoVisualizer

__all__ = [
    "HostMixin",
    "ReconstructionVisualizer",
    "ReportVisualizer",
    "VerdictPostProcessor",
    "VideoVisualizer",
    "check_past_frames",
    "height_and_width",
    "progress",
    "step_schedule",
]
