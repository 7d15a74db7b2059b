"""A checkpoint that version 0.1.0 wrote still loads and scores as it did then.

``golden/version_0_1.ckpt`` is a calibrated model of width 2 after 15 epochs on six pictures of stripes, and
``version_0_1.npz`` what that version made of the images below. On the machine that wrote them every later change was
compared to the bit; processors round differently, hence the tolerance here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from riad_anomalib import Riad

GOLDEN = Path(__file__).with_name("golden")
CLOSE: dict[str, Any] = {"atol": 2e-6, "rtol": 1e-5}


@pytest.mark.parametrize("calibration", ["none", "pixel"])
@pytest.mark.parametrize("score_function", ["msgms", "msgms_grey", "ssim"])
def test_a_checkpoint_of_version_0_1_scores_as_it_did(calibration: str, score_function: str) -> None:
    arguments: dict[str, Any] = {"calibration": calibration, "score_function": score_function}
    model: Any = Riad.load_from_checkpoint(GOLDEN / "version_0_1.ckpt", map_location="cpu", **arguments).eval()
    expected = np.load(GOLDEN / "version_0_1.npz")
    generator = torch.Generator().manual_seed(7)
    for size, shape in (("small", (3, 3, 32, 48)), ("large", (2, 3, 77, 90))):  # the latter is resized
        images, name = torch.rand(shape, generator=generator), f"{calibration}_{score_function}_{size}"
        with torch.no_grad():
            scored = model.model(model.pre_processor(images))
        np.testing.assert_allclose(scored.anomaly_map, expected[f"{name}_anomaly_map"], **CLOSE)
        np.testing.assert_allclose(scored.pred_score, expected[f"{name}_pred_score"], **CLOSE)
    if arguments == {"calibration": "pixel", "score_function": "msgms"}:  # as it was trained: its thresholds hold
        with torch.no_grad():
            np.testing.assert_allclose(model(images).anomaly_map, expected["normalised_anomaly_map"], **CLOSE)
