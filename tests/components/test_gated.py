import pytest
import reference
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from riad_anomalib.components.gated import GAIN, GatedConvolution, SelfAttention


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(5, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_the_gated_convolution_agrees_with_the_slow_loops(kernel_size: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = GatedConvolution(2, 4, kernel_size, stride, dilation).double()
    nn.init.normal_(layer.convolution.bias)  # type: ignore[arg-type]  # it has one
    image = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    weight, bias = (parameter.detach().numpy() for parameter in layer.convolution.parameters())
    expected = reference.gated_convolution(image[0].numpy(), weight, bias, stride, dilation)
    torch.testing.assert_close(layer(image)[0], torch.from_numpy(expected))


def test_a_gate_by_hand() -> None:
    """A filter hands the pixel on, its gate is open by a half; below 0, ELU is exp - 1."""
    layer = GatedConvolution(1, 2, kernel_size=1)
    layer.convolution.weight.data = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    values = layer(torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2)).flatten()
    torch.testing.assert_close(values, torch.tensor([1.5, (torch.e**-1 - 1) / 2]))


def test_the_gain_is_what_independent_normal_features_and_gates_need() -> None:
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5
    passed, opened = (torch.trapezoid(density * f(x) ** 2, x) for f in (F.elu, torch.sigmoid))
    assert ((passed * opened) ** -0.5).item() == pytest.approx(GAIN, abs=1e-4)


@pytest.mark.parametrize("strength", [1.0, 1 / GAIN])
def test_the_signal_keeps_its_strength_through_many_layers(strength: float) -> None:
    torch.manual_seed(0)
    features = strength * torch.randn(2, 32, 24, 24)
    for _ in range(8):
        padded = F.pad(features, (1, 1, 1, 1), mode="circular")  # zeros would weaken it at the border
        features = GatedConvolution(features.shape[1], 128)(padded)[..., 1:-1, 1:-1]
        assert 0.5 < features.square().mean() / strength**2 < 2


def test_self_attention_agrees_with_the_slow_loops() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    layer.gamma.data.fill_(0.7)
    for convolution in (layer.query, layer.key, layer.value):
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # it has one
    features = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    query, key, value = (layer.get_parameter(f"{name}.weight").detach() for name in ("query", "key", "value"))
    matrices = [weight[..., 0, 0].numpy() for weight in (query, key, value)]
    for i in range(2):
        expected = reference.self_attention(features[i].numpy(), matrices[0], matrices[1], matrices[2], gamma=0.7)
        torch.testing.assert_close(layer(features)[i], torch.from_numpy(expected))


def test_self_attention_begins_by_changing_nothing_and_learns() -> None:
    torch.manual_seed(0)
    layer, features = SelfAttention(8), torch.randn(1, 8, 4, 4)
    assert torch.equal(layer(features), features)
    layer(features).square().sum().backward()
    assert layer.gamma.grad is not None
    assert layer.gamma.grad.abs() > 0


def test_the_gradients_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(2).double()
    attention.gamma.data.fill_(0.5)
    for layer in (GatedConvolution(2, 4).double(), attention):
        assert torch.autograd.gradcheck(layer, torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True))
