import pytest
import torch
from torch import nn

from riad_anomalib.components import batching


def test_what_would_not_fit_goes_in_equal_parts_and_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, sizes = nn.Conv2d(3, 4, 3, padding=1), list[int]()
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    batch = torch.rand(18, 3, 8, 8)
    whole = batching.in_parts(network, batch, width=4)
    monkeypatch.setattr(batching, "_MAX_FEATURE_VALUES_CPU", 4 * 4 * 8 * 8)  # four images
    torch.testing.assert_close(batching.in_parts(network, batch, width=4), whole)
    assert sizes == [18, 4, 4, 4, 4, 2]


def test_what_else_the_network_takes_goes_with_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_MAX_FEATURE_VALUES_CPU", 2 * 4 * 8 * 8)  # two images
    batch, others = torch.rand(5, 3, 8, 8), torch.rand(5, 1, 8, 8)
    assert torch.equal(batching.in_parts(lambda a, b: a * b, batch, 4, others), batch * others)
