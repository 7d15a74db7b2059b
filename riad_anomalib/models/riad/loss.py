"""RIAD's training loss ([RIAD] Sec. 3.2, Eqs. 5-7)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from riad_anomalib.components.arguments import finite_number
from riad_anomalib.components.similarity import gms_difference_pyramid, ssim_per_channel


class RiadLoss(nn.Module):
    """L = lambda_G L_G + lambda_S L_S + L_2: MSGMS, SSIM and pixel-wise loss ([RIAD] Eq. 7).

    Convention: every term is a mean, over pixels, channels and images; float32 also under mixed precision.

    Args:
        msgms_weight: lambda_G, at least 0.
        ssim_weight: lambda_S, at least 0.

    Example:
        A reconstruction that is too bright everywhere has the right edges, so the MSGMS term is 0:

        >>> image = torch.full((1, 3, 16, 16), 0.5)
        >>> terms = RiadLoss(msgms_weight=1.0, ssim_weight=1.0).terms(image + 0.1, image)
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'msgms_loss': 0.0, 'ssim_loss': 0.0164, 'l2_loss': 0.01}
    """

    def __init__(self, msgms_weight: float, ssim_weight: float) -> None:
        super().__init__()
        for name, weight in (("msgms_weight", msgms_weight), ("ssim_weight", ssim_weight)):
            if finite_number(name, weight) < 0:
                msg = f"{name} is {weight}: it must be at least 0; 0 switches the term off"
                raise ValueError(msg)
        self.msgms_weight = msgms_weight
        self.ssim_weight = ssim_weight

    def terms(self, reconstruction: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Return the three terms by name, not weighted.

        Args:
            reconstruction: Batch in [0, 1], ``(N, C, H, W)``.
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            ``msgms_loss`` in [0, 1] (Eq. 5), ``ssim_loss`` in [0, 2] (Eq. 6) and ``l2_loss`` in [0, 1], scalars.
        """
        # CHOICE [RIAD] Eq. 7: the paper does not say how L_2 is reduced; a mean keeps it on the other terms' scale.
        reconstruction, image = reconstruction.float(), image.float()
        per_scale = [difference.mean() for difference in gms_difference_pyramid(image, reconstruction)]
        return {
            "msgms_loss": torch.stack(per_scale).mean(),
            "ssim_loss": 1 - ssim_per_channel(image, reconstruction).mean(),
            "l2_loss": F.mse_loss(reconstruction, image),
        }

    def weigh(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of what :meth:`terms` returned, a scalar."""
        return self.msgms_weight * terms["msgms_loss"] + self.ssim_weight * terms["ssim_loss"] + terms["l2_loss"]

    def forward(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the loss, a scalar; the arguments are those of :meth:`terms`."""
        return self.weigh(self.terms(reconstruction, image))
