import pytest
import reference
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from riad_anomalib import I3adLoss
from riad_anomalib.models.i3ad.loss import absolute_loss, discriminator_hinge, generator_hinge


class Judge(nn.Module):
    """A discriminator of one weight, that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.shown: list[Tensor] = []

    def forward(self, image: Tensor, removed: Tensor) -> Tensor:
        self.shown.append(image.detach())
        return self.weight * (image * removed).mean(dim=(1, 2, 3))


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """What two stages made, images, what was removed."""
    torch.manual_seed(0)
    return torch.rand(2, 2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8) < 0.5


def test_the_hinge_losses_agree_with_the_slow_loops() -> None:
    torch.manual_seed(0)
    real, fake = 2 * torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    generator, discriminator = reference.hinge_losses(real.numpy(), fake.numpy())
    assert generator_hinge(fake).item() == pytest.approx(generator)
    assert discriminator_hinge(real, fake).item() == pytest.approx(discriminator)


def test_the_losses_by_hand() -> None:
    """The fine stage is wrong by 0.5 on the right, where it was asked to paint; the judge doubles what it sees."""
    image, removed = torch.full((1, 1, 1, 2), 0.25), torch.tensor([[[[False, True]]]])
    painted = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.25, 0.75]]]])
    terms = I3adLoss(0.5).terms(painted, image, removed, Judge())
    expected = {
        "coarse_loss": 0.25,
        "fine_loss": 0.25,
        "adversarial_loss": -0.75,  # 2 * 0.75 / 2 pixels
        "discriminator_loss": (1 - 0.25) + (1 + 0.75),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    assert I3adLoss(0.5)(painted, image, removed, Judge()).item() == pytest.approx(0.25 + 0.25 - 0.375 + 2.5)
    assert I3adLoss(0.5)(painted[1:], image, removed, None).item() == pytest.approx(0.25)


def test_each_player_gets_the_gradient_of_its_own_loss() -> None:
    painted, image, removed = batch()
    judge, weight = Judge(), torch.tensor(1.0, requires_grad=True)
    I3adLoss(0.5)([weight * made for made in painted], image, removed, judge).backward()

    alone = torch.tensor(1.0, requires_grad=True)
    pasted = torch.where(removed, alone * painted[1], image)
    own = sum(absolute_loss(alone * made, image) for made in painted) - 0.5 * Judge()(pasted, removed).mean()
    own.backward()
    torch.testing.assert_close(weight.grad, alone.grad)

    judge_alone = Judge()
    real, fake = judge_alone(image, removed), judge_alone(pasted.detach(), removed)
    (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
    torch.testing.assert_close(judge.weight.grad, judge_alone.weight.grad)
    assert judge.weight.requires_grad


def test_the_adversary_is_shown_originals_and_images_with_the_fine_result_pasted_in() -> None:
    painted, image, removed = batch()
    judge = Judge()
    I3adLoss(0.5).terms(tuple(painted), image, removed, judge)
    pasted = torch.where(removed, painted[1], image)
    assert torch.equal(judge.shown[0], pasted)
    assert torch.equal(judge.shown[1], torch.cat([image, pasted]))


def test_the_losses_are_those_of_float32_under_mixed_precision() -> None:
    painted, image, removed = batch()
    low = I3adLoss(0.0)(tuple(painted.bfloat16()), image.bfloat16(), removed, None)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, I3adLoss(0.0)(tuple(painted), image, removed, None), atol=0.01, rtol=0)


def test_the_gradients_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(discriminator_hinge, (real, fake))
    assert torch.autograd.gradcheck(generator_hinge, fake)
    assert torch.autograd.gradcheck(lambda made: absolute_loss(made, real.detach()), fake)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), "much", True])
def test_a_bad_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=f"adversarial_weight is {weight!r}: it must be"):
        I3adLoss(weight)
