from typing import Any

import pytest
import reference
import torch
from torch import Tensor

from riad_anomalib import SsaeLoss


def batch(dtype: torch.dtype = torch.float32, networks: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reconstructions, images, corrupted images and how much of each pixel is replaced."""
    torch.manual_seed(0)
    image, content = torch.rand(2, 2, 3, 6, 8, dtype=dtype)
    replaced = torch.rand(2, 1, 6, 8, dtype=dtype) * (torch.rand(2, 1, 6, 8) < 0.5)
    return torch.rand(2, networks, 3, 6, 8, dtype=dtype), image, torch.lerp(image, content, replaced), replaced


@pytest.mark.parametrize("objective", ["filter", "amplify"])
def test_the_terms_agree_with_the_slow_loops(objective: str) -> None:
    reconstructions, image, corrupted, replaced = batch()
    terms = SsaeLoss(objective, 0.5).terms(reconstructions, image, corrupted, replaced)
    arrays = [tensor.double().numpy() for tensor in (reconstructions[:, 0], image, corrupted, replaced[:, 0])]
    slow = [reference.ssae_terms(objective, *(array[i] for array in arrays)) for i in range(2)]
    normal, corrupted_loss, copying = (sum(values) / 2 for values in zip(*slow, strict=True))
    assert terms["normal_loss"].tolist() == pytest.approx([normal])
    assert terms["corrupted_loss"].tolist() == pytest.approx([corrupted_loss])
    assert terms["copied"].tolist() == pytest.approx([corrupted_loss / copying])


def test_the_losses_by_hand() -> None:
    """Two of four pixels replaced, one of them by half; the network is wrong by 0.2 on the left, by 0.4 on the right.

    Filter: normal (0.25 * 0.16 + 2 * 0.04) / 2.5, corrupted (1 * 0.04 + 0.25 * 0.16) / 1.5; the image changed by 0.8
    and 0.5. Amplify: corrupted (0.64 * 0.04 + 0.25 * 0.16) / 1.3.
    """
    image, replaced = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    corrupted = torch.tensor([[[[0.8, 0.5], [0.0, 0.0]]]])
    made = torch.tensor([[[[[0.2, 0.4], [0.2, 0.2]]]]])
    normal, repaired, amplified = (0.04 + 0.08) / 2.5, 0.08 / 1.5, (0.0256 + 0.04) / 1.3
    both = [[normal], [repaired]], [[normal], [amplified]]
    for objective, values in zip(("filter", "amplify"), both, strict=True):
        terms = SsaeLoss(objective, 0.5).terms(made, image, corrupted, replaced)
        torch.testing.assert_close(terms["normal_loss"], torch.tensor(values[0]))
        torch.testing.assert_close(terms["corrupted_loss"], torch.tensor(values[1]))
    assert SsaeLoss("filter", 0.25)(made, image, corrupted, replaced).item() == pytest.approx(
        0.75 * normal + 0.25 * repaired
    )
    assert SsaeLoss("amplify", 0.25)(made, image, corrupted, replaced).item() == pytest.approx(
        0.75 * normal - 0.25 * amplified
    )


def test_an_ensemble_pays_for_each_network_by_its_own_objective() -> None:
    reconstructions, *rest = batch(networks=2)
    loss = SsaeLoss("ensemble", 0.3)
    terms = loss.terms(reconstructions, *rest)
    singles = [SsaeLoss(name, 0.3) for name in ("filter", "amplify")]
    for index, single in enumerate(singles):
        for name, values in single.terms(reconstructions[:, index : index + 1], *rest).items():
            torch.testing.assert_close(terms[name][index], values[0])
    expected = sum(single(reconstructions[:, i : i + 1], *rest) for i, single in enumerate(singles))
    torch.testing.assert_close(loss(reconstructions, *rest), expected)


def test_a_network_that_repairs_costs_nothing_and_one_that_copies_is_told() -> None:
    _, image, corrupted, replaced = batch()
    loss = SsaeLoss("filter", 0.5)
    assert loss(image.unsqueeze(1), image, corrupted, replaced) == 0
    for objective in ("filter", "amplify"):
        terms = SsaeLoss(objective, 0.5).terms(corrupted.unsqueeze(1), image, corrupted, replaced)
        assert terms["copied"].item() == pytest.approx(1)


@pytest.mark.parametrize("objective", ["filter", "amplify", "ensemble"])
def test_the_gradient_is_that_of_the_formula(objective: str) -> None:
    reconstructions, *rest = batch(torch.float64, networks=2 if objective == "ensemble" else 1)
    loss = SsaeLoss(objective, 0.4)
    assert torch.autograd.gradcheck(lambda made: loss(made, *rest), reconstructions.requires_grad_())


@pytest.mark.parametrize("objective", ["filter", "amplify"])
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_flat_images_empty_masks_and_masks_of_everything_have_finite_terms(
    objective: str, share: float, grey: float
) -> None:
    image, replaced = torch.full((2, 3, 8, 8), grey), torch.full((2, 1, 8, 8), share)
    reconstructions = torch.full((2, 1, 3, 8, 8), 0.5, requires_grad=True)
    loss = SsaeLoss(objective, 0.5)
    terms = loss.terms(reconstructions, image, image, replaced)  # corruption that nobody sees
    loss.weigh(terms).backward()
    assert reconstructions.grad is not None
    assert reconstructions.grad.isfinite().all()
    assert terms["normal_loss"].item() == 0.25 * (1 - share)
    assert terms["corrupted_loss"].item() == (0.25 * share if objective == "filter" else 0)
    assert terms["copied"].isfinite().all()


def test_the_loss_is_that_of_float32_under_mixed_precision() -> None:
    tensors = batch()
    expected = SsaeLoss("amplify", 0.5)(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(SsaeLoss("amplify", 0.5)(*tensors), expected)
    low = SsaeLoss("amplify", 0.5)(*(tensor.bfloat16() for tensor in tensors))
    assert low.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("repair", 0.5), r"objective is 'repair': choose one of \['filter', 'amplify', 'ensemble'\]"),
        ((["filter"], 0.5), r"objective is \['filter'\]: choose one of"),
        (("filter", -0.1), r"corrupted_weight is -0.1: it must be in \[0, 1\]"),
        (("filter", 1.1), r"corrupted_weight is 1.1: it must be in \[0, 1\]"),
        (("filter", float("nan")), "corrupted_weight is nan: it must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SsaeLoss(*arguments)
