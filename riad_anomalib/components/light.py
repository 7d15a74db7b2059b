"""Pictures in the light of normal ones: gain, linear slope and offset of each channel, found by least squares.

A camera cuts off what is too bright or too dark for it. Such pixels are only known to be at least as bright, or as
dark, as they look: where the light that is found says no less, they tell nothing more of it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

MOST_SLOPE, MOST_GAIN = 0.4, 2.5
"""Most that is undone of light: the change from middle to border, and the factor (or one over it) of contrast."""
BLACK, WHITE = 0.004, 0.992
"""Values in [0, 1] that are cut off: 1 and 254 of 255."""
TYPICAL = 0.03
"""Difference from normal pictures from which on a pixel weighs less (Huber 1964), so that defects make no light."""
ITERATIONS = 3
STRIDE = 4
"""Every fourth pixel of every fourth row is enough to find light from."""
_RIDGE = 1e-4
_TINY = 1e-6


def axes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return places from -1 to 1 along rows and columns, ``(H, 1)`` and ``(W,)``."""
    row, column = (torch.linspace(-1, 1, side, device=image.device, dtype=image.dtype) for side in image.shape[-2:])
    return row[:, None], column


def cut_off(image: Tensor) -> Tensor:
    """Return where channels are cut off, with what was resized together with such pixels.

    Args:
        image: In [0, 1], ``(N, C, H, W)``.

    Returns:
        1 where they are white, 0 where black, 0.5 elsewhere, ``(N, C, H, W)``.
    """
    white, black = (F.max_pool2d(ends.to(image.dtype), 3, 1, 1) for ends in (image >= WHITE, image <= BLACK))
    return (1 + white - black) / 2


def whitening(picture: Tensor) -> Tensor:
    """Return what makes :func:`_basis` orthonormal, so that low precision can solve for it, ``(C, 4, 4)``.

    Args:
        picture: The mean normal picture, ``(1, C, H, W)``.
    """
    values = _basis(picture).double()
    gram = values.mT @ values / values.shape[1] + _RIDGE * torch.eye(values.shape[-1], device=picture.device)
    whitener: Tensor = torch.linalg.inv(torch.linalg.cholesky(gram)).mT.float()
    return whitener


def relit(image: Tensor, ends: Tensor, picture: Tensor, whitener: Tensor) -> Tensor:
    """Bring images, which show what a picture shows where it shows it, to its light.

    Convention: what is cut off is taken for the picture's as far as light may have hidden it, and no further.

    Args:
        image: In [0, 1], ``(N, C, H, W)``.
        ends: :func:`cut_off` of them.
        picture: The mean normal picture, ``(1, C, H, W)``.
        whitener: :func:`whitening` of it.

    Returns:
        Images in [0, 1], ``(N, C, H, W)``.
    """
    white, black = ends > 0.75, ends < 0.25  # noqa: PLR2004  # what was resampled
    gain, by_row, by_column, offset = _light(image, white, black, picture, whitener)[..., None, None].unbind(dim=2)
    row, column = axes(image)
    slopes = [slope.clamp(-MOST_SLOPE, MOST_SLOPE) * axis for slope, axis in ((by_row, row), (by_column, column))]
    gain = (gain + sum(slopes)).clamp(1 / MOST_GAIN, MOST_GAIN)
    lit = (image - offset) / gain
    hidden_bright, hidden_dark = (1 - (1 - offset) / gain).clamp(min=0), (-offset / gain).clamp(min=0)
    brighter = torch.maximum(lit, torch.minimum(picture, lit + hidden_bright))
    darker = torch.minimum(lit, torch.maximum(picture, lit - hidden_dark))
    return torch.where(white, brighter, torch.where(black, darker, lit)).clamp(0, 1)


def _basis(picture: Tensor) -> Tensor:
    """Return what light makes of each channel of a picture: itself, itself with each slope, and 1, ``(C, P, 4)``."""
    row, column = axes(picture)
    values = torch.stack([picture, picture * row, picture * column, torch.ones_like(picture)], dim=-1)
    return values[0, :, ::STRIDE, ::STRIDE].flatten(1, 2)


def _light(image: Tensor, white: Tensor, black: Tensor, picture: Tensor, whitener: Tensor) -> Tensor:
    """Find the light of images against a picture: least squares in which no pixel is off for being cut off.

    Args:
        image: ``(N, C, H, W)``.
        white: Where they are cut off at 1, bool, ``(N, C, H, W)``.
        black: Where they are at 0.
        picture: ``(1, C, H, W)``.
        whitener: ``(C, 4, 4)``.

    Returns:
        Gain, its change from middle to bottom and to the right, and offset of each channel, ``(N, C, 4)``.
    """
    # Solved for the change: where nothing counts, there is none.
    change, white, black, normal = (
        values[..., ::STRIDE, ::STRIDE].flatten(2)[:, :, None] for values in (image - picture, white, black, picture)
    )  # (N, C, 1, P)
    basis = _basis(picture) @ whitener  # (C, P, 4)
    products = (basis[..., None] * basis[..., None, :]).flatten(2)  # (C, P, 16)
    ridge = _RIDGE * torch.eye(basis.shape[-1], device=image.device)
    weights = torch.ones_like(change)
    for _ in range(ITERATIONS):
        gram = (weights @ products / basis.shape[1]).unflatten(-1, ridge.shape)[:, :, 0] + ridge
        solution = _solved(gram, (weights * change @ basis / basis.shape[1])[:, :, 0])  # (N, C, 4)
        fitted = (basis @ solution[..., None]).mT
        weights = TYPICAL / (change - fitted).abs().clamp(min=TYPICAL)
        is_explained = (white & (normal + fitted >= 1)) | (black & (normal + fitted <= 0))
        weights = torch.where(is_explained, torch.zeros_like(weights), weights)
    found = (whitener @ solution[..., None])[..., 0]
    return found + image.new_tensor([1.0, 0.0, 0.0, 0.0])


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve positive definite systems, ``(..., K, K)`` and ``(..., K)``, by elimination, which every export knows."""
    system = torch.cat([matrix, right[..., None]], dim=-1)
    for i, unit in enumerate(torch.eye(matrix.shape[-1], device=matrix.device)[..., None]):
        row = system[..., i : i + 1, :] / system[..., i : i + 1, i : i + 1]
        system = system - (system[..., i : i + 1] - unit) * row  # the row itself becomes what was divided
    return system[..., -1]


def moments(image: Tensor) -> Tensor:
    """Return the means of a grey image times 1, row, column, and the squares of these, ``(N, 5)``."""
    row, column = axes(image)
    grey = image.mean(dim=1)
    return torch.stack([(grey * factor).mean(dim=(1, 2)) for factor in (1, row, column, row**2, column**2)], dim=1)


def without_slope(image: Tensor, normal_moments: Tensor) -> Tensor:
    """Divide by a linear slope of light along each axis, found from first moments: of images that show what they like.

    Args:
        image: ``(N, C, H, W)``.
        normal_moments: Mean :func:`moments` of normal images, ``(5,)``.
    """
    rows, columns = axes(image)
    mean, by_row, by_column, _, _ = moments(image).unbind(dim=1)
    normal, *firsts = normal_moments[:3]
    for axis, first, normal_first, second in zip(
        (rows, columns), (by_row, by_column), firsts, normal_moments[3:], strict=True
    ):
        # Of I (1 + r x) with moments m: M1 / M0 = (m1 + r m2) / (m0 + r m1).
        slope = (first * normal - normal_first * mean) / (second * mean - normal_first * first).clamp(min=_TINY)
        image = image / (1 + slope.clamp(-MOST_SLOPE, MOST_SLOPE)[:, None, None, None] * axis)
    return image
