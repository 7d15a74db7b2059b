"""I3AD's training losses ([I3AD] Sec. 2.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from riad_anomalib.components.arguments import finite_number
from riad_anomalib.components.masking import paste


def absolute_loss(painted: Tensor, image: Tensor) -> Tensor:
    """Return the mean absolute difference, a scalar, float32 or better also under mixed precision."""
    # DEVIATES [I3AD] Sec. 2.2: the paper's loss is discounted towards the middle of holes (Yu et al. 2018), which is
    # for large rectangles; strokes and blobs are thin.
    dtype = torch.promote_types(image.dtype, torch.float32)
    return F.l1_loss(painted.to(dtype), image.to(dtype))


def generator_hinge(fake: Tensor) -> Tensor:
    """Return -E[D(painted)], a scalar: the generator is rewarded for what passes as original.

    Args:
        fake: Judgements of painted images, of any shape.
    """
    return -fake.mean()


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[ReLU(1 - D(original))] + E[ReLU(1 + D(painted))], a scalar.

    Args:
        real: Judgements of original images, of any shape.
        fake: Judgements of painted images, of any shape.

    Example:
        Two patches, of which the second is taken for the opposite, and far beyond:

        >>> discriminator_hinge(torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])).item()
        3.0
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


class I3adLoss(nn.Module):
    """L1 of each stage, plus a weight times the adversarial loss, plus the discriminator's own loss.

    Both players move at once: the adversarial loss does not reach the discriminator's weights, nor the discriminator's
    loss the generator's, so the gradient of the sum is each player's own.

    Args:
        adversarial_weight: Weight of the adversarial loss, at least 0; 0 is for training without a discriminator.

    Raises:
        ValueError: If the weight is negative.

    Example:
        >>> image, removed = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
        >>> terms = I3adLoss(adversarial_weight=0.0).terms((image + 0.5, image + 0.25), image, removed, None)
        >>> {name: term.item() for name, term in terms.items()}
        {'coarse_loss': 0.5, 'fine_loss': 0.25}
    """

    def __init__(self, adversarial_weight: float) -> None:
        super().__init__()
        if finite_number("adversarial_weight", adversarial_weight) < 0:
            msg = (
                f"adversarial_weight is {adversarial_weight}: it must be at least 0, which trains without an adversary"
            )
            raise ValueError(msg)
        self.adversarial_weight = adversarial_weight

    def terms(
        self, painted: Sequence[Tensor], image: Tensor, removed: Tensor, discriminator: nn.Module | None
    ) -> dict[str, Tensor]:
        """Return the terms by name, not weighted, each a scalar.

        Args:
            painted: What each stage made, in [0, 1], the last one's in the end, each ``(N, C, H, W)``.
            image: The images, in [0, 1], ``(N, C, H, W)``.
            removed: True where they were painted, ``(N, 1, H, W)``.
            discriminator: From images and ``removed`` to judgements; None without an adversary.

        Returns:
            ``coarse_loss``, if there is such a stage, and ``fine_loss``; with a discriminator ``adversarial_loss`` and
            ``discriminator_loss`` too.
        """
        names = ("coarse_loss", "fine_loss")[-len(painted) :]
        terms = {name: absolute_loss(made, image) for name, made in zip(names, painted, strict=True)}
        if discriminator is None:
            return terms
        pasted = paste(image, painted[-1].to(image.dtype), removed)
        discriminator.requires_grad_(False)
        terms["adversarial_loss"] = generator_hinge(discriminator(pasted, removed))
        discriminator.requires_grad_(True)
        judged = discriminator(torch.cat([image, pasted.detach()]), torch.cat([removed, removed]))
        terms["discriminator_loss"] = discriminator_hinge(*judged.chunk(2))
        return terms

    def weigh(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of what :meth:`terms` returned, a scalar."""
        weights = {"adversarial_loss": self.adversarial_weight}
        return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def forward(
        self, painted: Sequence[Tensor], image: Tensor, removed: Tensor, discriminator: nn.Module | None
    ) -> Tensor:
        """Return the loss, a scalar; the arguments are those of :meth:`terms`."""
        return self.weigh(self.terms(painted, image, removed, discriminator))
