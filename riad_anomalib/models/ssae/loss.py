"""SSAE's training losses ([SSAE] Secs. 3.1 and 4.3, Eqs. 1 and 4)."""

import torch
from torch import Tensor, nn

from riad_anomalib.components.arguments import check_choice, finite_number

OBJECTIVES = {"filter": ("filter",), "amplify": ("amplify",), "ensemble": ("filter", "amplify")}
"""Objective of each network by the name that ``objective`` takes."""

_GREY_LEVEL = 1 / 255


def _weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return ||w * e||_2^2 / ||w||_1 of each image, mean over the batch; 0 where no pixel has a weight."""
    # CHOICE [SSAE] Eq. 1: norms are squared, without which a quotient is no mean, and taken for each image, where the
    # paper has one; less than a whole pixel counts as one, so that an empty mask costs nothing.
    total = (weight * error).square().flatten(start_dim=1).sum(dim=1)
    return (total / weight.flatten(start_dim=1).sum(dim=1).clamp(min=1)).mean()


class SsaeLoss(nn.Module):
    """(1 - lambda) times the normal loss, plus or minus lambda times the corrupted loss ([SSAE] Eqs. 1 and 4).

    ``"filter"`` (Eq. 1) adds: the network repairs what is corrupted. ``"amplify"`` (Eq. 4) subtracts: it spoils that
    further. ``"ensemble"`` is one network for each, with the sum of their losses.

    Convention: the mask stands on all channels; float32 or better, also under mixed precision.

    Args:
        objective: ``"filter"``, ``"amplify"`` or ``"ensemble"``.
        corrupted_weight: lambda in [0, 1].

    Raises:
        ValueError: If an argument is out of range.

    Example:
        A network that copies a corrupted image is wrong by what was corrupted, half of two pixels here:

        >>> image, replaced = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
        >>> corrupted = image + 0.5 * replaced
        >>> terms = SsaeLoss("filter", corrupted_weight=0.5).terms(corrupted.unsqueeze(1), image, corrupted, replaced)
        >>> {name: term.item() for name, term in terms.items()}
        {'normal_loss': 0.0, 'corrupted_loss': 0.25, 'copied': 1.0}
    """

    def __init__(self, objective: str, corrupted_weight: float) -> None:
        super().__init__()
        check_choice("objective", objective, OBJECTIVES)
        if not 0 <= finite_number("corrupted_weight", corrupted_weight) <= 1:
            msg = f"corrupted_weight is {corrupted_weight}: it must be in [0, 1], the paper's is 0.5"
            raise ValueError(msg)
        self.objectives = OBJECTIVES[objective]
        self.corrupted_weight = corrupted_weight

    def terms(self, reconstructions: Tensor, image: Tensor, corrupted: Tensor, replaced: Tensor) -> dict[str, Tensor]:
        """Return the terms by name, not weighted, each with one value for every network.

        Args:
            reconstructions: What each network made of the corrupted images, in [0, 1], ``(N, M, C, H, W)``.
            image: The images before corruption, in [0, 1], ``(N, C, H, W)``.
            corrupted: The corrupted images, in [0, 1], ``(N, C, H, W)``.
            replaced: How much of each pixel is replaced, in [0, 1], ``(N, 1, H, W)``.

        Returns:
            ``normal_loss`` and ``corrupted_loss`` in [0, 1], and ``copied``, the latter over that of a network that
            copies: 1 copies, 0 repairs, above 1 amplifies; each ``(M,)``.
        """
        reconstructions, image, corrupted, replaced = (
            tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            for tensor in (reconstructions, image, corrupted, replaced)
        )
        mask = replaced.expand_as(image)
        difference = corrupted - image
        terms: dict[str, list[Tensor]] = {"normal_loss": [], "corrupted_loss": [], "copied": []}
        for objective, reconstruction in zip(self.objectives, reconstructions.unbind(dim=1), strict=True):
            error = reconstruction - image
            # CHOICE [SSAE] Eq. 4: the difference stands in for the mask in its norm too, not in the complement.
            weight = mask if objective == "filter" else difference.abs()
            corrupted_loss, copying = _weighted_mean(error, weight), _weighted_mean(difference, weight)
            terms["normal_loss"].append(_weighted_mean(error, 1 - mask))
            terms["corrupted_loss"].append(corrupted_loss)
            # Corruption that nobody sees, as on a flat image, would make a quotient of nothing.
            terms["copied"].append(corrupted_loss.detach() / copying.clamp(min=_GREY_LEVEL**2))
        return {name: torch.stack(values) for name, values in terms.items()}

    def weigh(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of what :meth:`terms` returned, over all networks, a scalar."""
        sign = torch.tensor([1.0 if objective == "filter" else -1.0 for objective in self.objectives])
        corrupted = sign.to(terms["corrupted_loss"]) * terms["corrupted_loss"]
        return ((1 - self.corrupted_weight) * terms["normal_loss"] + self.corrupted_weight * corrupted).sum()

    def forward(self, reconstructions: Tensor, image: Tensor, corrupted: Tensor, replaced: Tensor) -> Tensor:
        """Return the loss, a scalar; the arguments are those of :meth:`terms`."""
        return self.weigh(self.terms(reconstructions, image, corrupted, replaced))
