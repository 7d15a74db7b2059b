import pytest
import reference
import torch
from skimage.metrics import structural_similarity

from riad_anomalib import RiadLoss


def test_the_terms_agree_with_the_slow_loops() -> None:
    torch.manual_seed(0)
    image, reconstruction = torch.rand(2, 2, 3, 64, 64)
    terms = RiadLoss(1.0, 1.0).terms(reconstruction, image)
    pairs = [(image[i, c].double().numpy(), reconstruction[i, c].double().numpy()) for i in range(2) for c in range(3)]
    assert terms["msgms_loss"].item() == pytest.approx(sum(reference.msgms_loss(*p) for p in pairs) / 6, abs=1e-5)
    assert terms["l2_loss"].item() == pytest.approx(sum(((a - b) ** 2).mean() for a, b in pairs) / 6, abs=1e-6)
    settings = {"data_range": 1.0, "gaussian_weights": True, "use_sample_covariance": False, "win_size": 11}
    ssim = sum(structural_similarity(*p, full=True, **settings)[1].mean() for p in pairs) / 6
    assert terms["ssim_loss"].item() == pytest.approx(1 - ssim, abs=5e-3)  # the borders differ


def test_the_weights_weigh_their_terms() -> None:
    terms = {"msgms_loss": torch.tensor(0.5), "ssim_loss": torch.tensor(0.25), "l2_loss": torch.tensor(0.125)}
    assert RiadLoss(2.0, 3.0).weigh(terms) == 2 * 0.5 + 3 * 0.25 + 0.125
    torch.manual_seed(0)
    image, reconstruction = torch.rand(2, 1, 3, 16, 16)
    loss = RiadLoss(2.0, 3.0)
    assert loss(reconstruction, image) == loss.weigh(loss.terms(reconstruction, image))


def test_a_perfect_reconstruction_costs_nothing() -> None:
    image = torch.rand(1, 3, 32, 32)
    assert RiadLoss(1.0, 1.0)(image, image).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_the_gradient_is_finite_on_flat_images(grey: float) -> None:
    flat = torch.full((1, 3, 32, 32), grey)
    reconstruction = torch.full_like(flat, 0.5, requires_grad=True)
    RiadLoss(1.0, 1.0)(reconstruction, flat).backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.isfinite().all()


def test_the_loss_is_that_of_float32_under_mixed_precision() -> None:
    torch.manual_seed(0)
    image, reconstruction = torch.rand(2, 1, 3, 32, 32)
    expected = RiadLoss(1.0, 1.0)(reconstruction, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(RiadLoss(1.0, 1.0)(reconstruction, image), expected)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_an_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"msgms_weight is .*: it must be (a finite number|at least 0)"):
        RiadLoss(weight, 1.0)
    with pytest.raises(ValueError, match="ssim_weight is"):
        RiadLoss(1.0, weight)
