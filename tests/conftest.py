from collections.abc import Callable
from pathlib import Path

import pytest

from riad_anomalib import demo_data


@pytest.fixture(scope="session")
def small_demo_data() -> Callable[[Path, int], Path]:
    """Make the demo's data set with few images: so many of each kind."""

    def make(root: Path, number: int) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("NUM_TRAIN", "NUM_TEST_GOOD", "NUM_TEST_PER_DEFECT"):
                patch.setattr(demo_data, name, number)
            return demo_data.make_demo_data(root)

    return make
