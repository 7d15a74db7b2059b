"""Slow loops written from the papers, for parity tests. One channel, numpy, float64."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
C = 170 / 255**2


def gradient_magnitude(image: Array) -> Array:
    """[RIAD] Eq. 3 with 3x3 Prewitt filters, border pixels repeated."""
    height, width = image.shape
    magnitude = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            horizontal = vertical = 0.0
            for step in (-1, 0, 1):
                r = min(max(row + step, 0), height - 1)
                horizontal += (image[r, min(column + 1, width - 1)] - image[r, max(column - 1, 0)]) / 3
                c = min(max(column + step, 0), width - 1)
                vertical += (image[min(row + 1, height - 1), c] - image[max(row - 1, 0), c]) / 3
            magnitude[row, column] = np.sqrt(horizontal**2 + vertical**2)
    return magnitude


def gms(image: Array, reconstruction: Array) -> Array:
    """[RIAD] Eq. 4."""
    g, g_r = gradient_magnitude(image), gradient_magnitude(reconstruction)
    similarity = np.zeros_like(image)
    for index in np.ndindex(image.shape):
        similarity[index] = (2 * g[index] * g_r[index] + C) / (g[index] ** 2 + g_r[index] ** 2 + C)
    return similarity


def halve(image: Array) -> Array:
    """Average pooling with a window of 2x2 and a stride of 2."""
    small = np.zeros((image.shape[0] // 2, image.shape[1] // 2))
    for row, column in np.ndindex(small.shape):
        small[row, column] = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
    return small


def msgms_loss(image: Array, reconstruction: Array) -> float:
    """[RIAD] Eq. 5."""
    total = 0.0
    for _ in range(4):
        total += (1 - gms(image, reconstruction)).sum() / image.size
        image, reconstruction = halve(image), halve(reconstruction)
    return total / 4


def upsample(small: Array, factor: int) -> Array:
    """Bilinear interpolation between pixel centres, constant beyond the outermost ones."""
    height, width = small.shape
    large = np.zeros((height * factor, width * factor))
    for row, column in np.ndindex(large.shape):
        y = min(max((row + 0.5) / factor - 0.5, 0), height - 1)
        x = min(max((column + 0.5) / factor - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = small[top, left] * (1 - (x - left)) + small[top, right] * (x - left)
        lower = small[bottom, left] * (1 - (x - left)) + small[bottom, right] * (x - left)
        large[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return large


def msgms_map(image: Array, reconstruction: Array) -> Array:
    """[RIAD] Sec. 3.4: mean of the upsampled GMS maps."""
    total = np.zeros_like(image)
    for scale in range(4):
        total += upsample(gms(image, reconstruction), 2**scale)
        image, reconstruction = halve(image), halve(reconstruction)
    return total / 4


def mean_filter(values: Array, size: int) -> Array:
    """Mean of the window's part that lies on the image."""
    smooth = np.zeros_like(values)
    pad = size // 2
    for row, column in np.ndindex(values.shape):
        window = values[max(row - pad, 0) : row + pad + 1, max(column - pad, 0) : column + pad + 1]
        smooth[row, column] = window.mean()
    return smooth


def anomaly_map(image: Array, reconstructions: list[Array], smoothing_size: int) -> Array:
    """[RIAD] Eqs. 8 and 9, in the paper's order."""
    maps = [1 - mean_filter(msgms_map(image, reconstruction), smoothing_size) for reconstruction in reconstructions]
    return sum(maps, np.zeros_like(image)) / len(maps)


def masked_copies(image: Array, partition: NDArray[np.int64], num_sets: int) -> list[Array]:
    """[RIAD] Alg. 1: one copy per set, its pixels at zero."""
    copies = []
    for index in range(num_sets):
        copy = image.copy()
        for row, column in np.ndindex(image.shape):
            if partition[row, column] == index:
                copy[row, column] = 0
        copies.append(copy)
    return copies


def reassemble(partial: list[Array], partition: NDArray[np.int64]) -> Array:
    """[RIAD] Eq. 2: every pixel from the copy that it was removed from."""
    whole = np.zeros_like(partial[0])
    for index in np.ndindex(whole.shape):
        whole[index] = partial[partition[index]][index]
    return whole


def smooth(noise: Array, height: int, width: int, sigma: float) -> Array:
    """White noise that lies evenly on the image, under a Gaussian, over its standard deviation at each pixel."""
    step_down, step_right = height / noise.shape[0], width / noise.shape[1]
    spread = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        total = squares = 0.0
        for i, j in np.ndindex(noise.shape):
            down = row + 0.5 - (i + 0.5) * step_down
            right = column + 0.5 - (j + 0.5) * step_right
            weight = np.exp(-(down**2 + right**2) / (2 * sigma**2))
            total += weight * noise[i, j]
            squares += weight**2
        spread[row, column] = total / np.sqrt(squares)
    return spread


def soft_ellipse(centre: Array, half_axes: Array, angle: float, edge: Array) -> Array:
    """[SSAE] Sec. 3.2, a shape mask for gluing smoothly: an ellipse that fades by 3t^2 - 2t^3."""
    patch = np.zeros_like(edge)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for index in np.ndindex(patch.shape):
        radius = np.linalg.norm(turn @ (np.array(index) - centre) / half_axes) + 0.2 * edge[index]
        inside = float(np.clip((1 - radius) / 0.3, 0, 1))
        patch[index] = 3 * inside**2 - 2 * inside**3
    return patch


def mirrored(place: int, side: int) -> int:
    """The pixel that is seen at a place beyond the border: ... b a | a b c | c b ..."""
    place %= 2 * side
    return min(place, 2 * side - 1 - place)


def displace(image: Array, down: Array, right: Array) -> Array:
    """[SSAE] Fig. 5, elastic deformation: bilinear interpolation at displaced places."""
    height, width = image.shape
    seen = np.zeros_like(image)
    for row, column in np.ndindex(image.shape):
        y, x = row + down[row, column], column + right[row, column]
        top, left = int(np.floor(y)), int(np.floor(x))
        for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            weight = (1 - abs(y - r)) * (1 - abs(x - c))
            seen[row, column] += weight * image[mirrored(r, height), mirrored(c, width)]
    return seen


def avgmap(images: list[Array], normal: list[Array], smoothing_size: int, repeats: int, power: float) -> list[Array]:
    """[SSAE] Eqs. 3, 13 and 14 on difference maps, with the average map relative to its own mean."""

    def smooth(values: Array) -> Array:
        for _ in range(repeats):
            values = mean_filter(values, smoothing_size)
        return values

    average = sum(map(smooth, normal), np.zeros_like(normal[0])) / len(normal)
    typical = average.sum() / average.size
    maps = [smooth(image) for image in images]
    for values in maps:
        for index in np.ndindex(values.shape):
            values[index] *= (1 - average[index] / (average[index] + typical)) ** power
    return maps


def ssae_terms(objective: str, reconstruction: Array, image: Array, corrupted: Array, replaced: Array) -> list[float]:
    """[SSAE] Eqs. 1 and 4 for one image, ``(C, H, W)``: the normal and the corrupted term, and that of copying."""
    sums, weights = np.zeros(3), np.zeros(3)
    for channel, row, column in np.ndindex(image.shape):
        place = channel, row, column
        mask = replaced[row, column]
        weight = mask if objective == "filter" else abs(corrupted[place] - image[place])
        error, copied = reconstruction[place] - image[place], corrupted[place] - image[place]
        for index, (w, e) in enumerate(((1 - mask, error), (weight, error), (weight, copied))):
            sums[index] += (w * e) ** 2
            weights[index] += w
    return [float(total / max(weight, 1)) for total, weight in zip(sums, weights, strict=True)]


def gated_convolution(image: Array, weight: Array, bias: Array, stride: int, dilation: int) -> Array:
    """ELU(a) * sigmoid(g) (Yu et al. 2019), with a by the first half of the filters and g by the second."""
    (_, height, width), (filters, channels, side, _) = image.shape, weight.shape
    half = side // 2
    made = np.zeros((filters, -(-height // stride), -(-width // stride)))
    for index in np.ndindex(made.shape):
        total = bias[index[0]]
        for channel, i, j in np.ndindex(channels, side, side):
            row, column = index[1] * stride + (i - half) * dilation, index[2] * stride + (j - half) * dilation
            if 0 <= row < height and 0 <= column < width:
                total += weight[index[0], channel, i, j] * image[channel, row, column]
        made[index] = total
    features, gates = made[: filters // 2], made[filters // 2 :]
    for index in np.ndindex(features.shape):
        feature = features[index] if features[index] > 0 else np.exp(features[index]) - 1
        features[index] = feature / (1 + np.exp(-gates[index]))
    return features


def self_attention(features: Array, query: Array, key: Array, value: Array, gamma: float) -> Array:
    """Zhang et al. 2019, place by place, without biases; matrices of the 1x1 convolutions, ``(C, C_in)``."""
    made = features.copy()
    places = list(np.ndindex(features.shape[1:]))
    for i, j in places:
        weights = [np.exp((query @ features[:, i, j]) @ (key @ features[:, m, n])) for m, n in places]
        for weight, (m, n) in zip(weights, places, strict=True):
            made[:, i, j] += gamma * weight / sum(weights) * (value @ features[:, m, n])
    return made


def checkerboards(height: int, width: int, patch_size: int) -> list[Array]:
    """[I3AD] Fig. 6: squares coloured with period 2 in both directions, one mask for each colour."""
    boards = [np.zeros((height, width)) for _ in range(4)]
    for row, column in np.ndindex(height, width):
        odd_row, odd_column = (row // patch_size) % 2 == 1, (column // patch_size) % 2 == 1
        boards[(2 if odd_row else 0) + (1 if odd_column else 0)][row, column] = 1
    return boards


def ssim(image: Array, reconstruction: Array) -> Array:
    """[I3AD] App. A: a Gaussian window of 11, sigma 1.5; beyond the border the image is mirrored, but for its edge."""
    window = np.exp(-(np.add.outer(np.arange(-5, 6) ** 2, np.arange(-5, 6) ** 2)) / (2 * 1.5**2))
    window /= window.sum()
    padded, padded_r = np.pad(image, 5, mode="reflect"), np.pad(reconstruction, 5, mode="reflect")
    similarity = np.zeros_like(image)
    for row, column in np.ndindex(image.shape):
        p, q = padded[row : row + 11, column : column + 11], padded_r[row : row + 11, column : column + 11]
        mu_p, mu_q = (window * p).sum(), (window * q).sum()
        var_p, var_q = (window * (p - mu_p) ** 2).sum(), (window * (q - mu_q) ** 2).sum()
        covariance = (window * (p - mu_p) * (q - mu_q)).sum()
        luminance = (2 * mu_p * mu_q + 0.01**2) / (mu_p**2 + mu_q**2 + 0.01**2)
        similarity[row, column] = luminance * (2 * covariance + 0.03**2) / (var_p + var_q + 0.03**2)
    return similarity


def i3ad_rounds(
    image: Array, paint: Callable[[Array, Array], Array], patch_size: int, threshold: float, iterations: int
) -> list[tuple[Array, Array]]:
    """[I3AD] Secs. 2.2 to 2.4: what each round removes, and the image with what was painted there."""
    reconstruction = np.zeros_like(image)
    for board in checkerboards(image.shape[0], image.shape[1], patch_size):
        painted = paint(np.where(board, 0, image), board)
        reconstruction = np.where(board, painted, reconstruction)
    rounds = [(np.ones_like(image), reconstruction)]
    for _ in range(iterations - 1):
        similarity = ssim(image, reconstruction)
        removed, reconstruction = np.zeros_like(image), image.copy()
        for index in np.ndindex(image.shape):
            removed[index] = (1 - similarity[index]) / 2 >= threshold
        painted = paint(np.where(removed, 0, image), removed)
        for index in np.ndindex(image.shape):
            if removed[index]:
                reconstruction[index] = painted[index]
        rounds.append((removed, reconstruction))
    return rounds


def hinge_losses(real: Array, fake: Array) -> tuple[float, float]:
    """[I3AD] Sec. 2.2, L_G and L_D."""
    generator = discriminator = 0.0
    for original, painted in zip(real.flatten().tolist(), fake.flatten().tolist(), strict=True):
        generator -= painted / fake.size
        discriminator += (max(1 - original, 0) + max(1 + painted, 0)) / fake.size
    return generator, discriminator
