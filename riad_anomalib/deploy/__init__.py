"""Inspect pictures, a video or a camera with an exported model, on a machine without torch and anomalib.

    python -m riad_anomalib.deploy weights/openvino/model.xml pictures --output inspected

The data go sources -> frames -> inference -> results, averaged over time -> output. Needs numpy, openvino, Pillow,
Jinja2 and OpenCV, headless or not: Pillow reads pictures, as in training; OpenCV reads video, draws and encodes, the
window is tkinter's. Nothing here is RIAD's own: any image model that ``anomalib export`` writes with its post-processor
will do.
"""

from .command import main
from .inference import OUTPUTS, Result, as_input, average, infer, infer_requests, judged, load_model, score_threshold
from .inspection import Summary
from .output import draw
from .packaging import package
from .sources import open_source

__all__ = [
    "OUTPUTS",
    "Result",
    "Summary",
    "as_input",
    "average",
    "draw",
    "infer",
    "infer_requests",
    "judged",
    "load_model",
    "main",
    "open_source",
    "package",
    "score_threshold",
]
