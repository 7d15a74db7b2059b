import pytest
from hypothesis import given
from hypothesis import strategies as st

from riad_anomalib.strips import strips


@given(
    height=st.integers(1, 3000),
    rows=st.integers(1, 600),
    overlap=st.integers(0, 120),
    multiple=st.sampled_from([8, 32]),
)
def test_every_row_is_kept_once_and_far_enough_from_cuts(height: int, rows: int, overlap: int, multiple: int) -> None:
    if height > rows and rows - 2 * overlap < multiple:
        with pytest.raises(ValueError, match="are too narrow"):
            strips(height, rows, multiple, overlap)
        return
    laid = strips(height, rows, multiple, overlap)
    assert [row for strip in laid for row in range(strip.first, strip.last)] == list(range(height))
    for strip in laid:
        assert strip.start % multiple == 0
        assert strip.stop - strip.start <= rows
        assert strip.start == 0 or strip.first - strip.start >= overlap
        assert strip.stop == height or strip.stop - strip.last >= overlap
