"""Snow, frost and fog, painted from random numbers: no photograph is needed."""

import math

import numpy as np

from jaxprune.data._blurs import along, filtered, trail
from jaxprune.data._draws import Draws

_GREY = np.array([0.299, 0.587, 0.114])  # luma, Rec. 601
_ICE = np.array([0.86, 0.94, 1.0])
_CRYSTALS = 9
_TWIGS = 9  # on either side of a crystal


def snow(images: np.ndarray, unit: float, draws: Draws, flakes: tuple[float, float, float, float, float]) -> np.ndarray:
    """Whitens images and lets streaks of snow fall.

    ``flakes``: the mean and deviation of a lattice of normal numbers, of which those above a threshold are flakes; how
    far a flake falls while it is seen (at 32 pixels); the share of the image that is whitened.
    """
    mean, std, threshold, fall, white = flakes
    size = images.shape[1:3]
    cell = max(1.0, unit)
    lattice = mean + std * draws.normal(*points(size, cell))
    layer = enlarged(np.where(lattice > threshold, np.minimum(lattice, 1.0), 0.0), size, cell)[..., None]
    angles = (0.25 + 0.5 * draws.uniform(1)[:, 0]) * np.pi
    streaks = [
        filtered(one[None], trail(fall * unit, angle)) for one, angle in zip(layer, angles.tolist(), strict=True)
    ]
    layer = np.concatenate(streaks)
    grey = images if images.shape[-1] == 1 else np.sum(images * _GREY, axis=-1, keepdims=True)
    whitened = images + white * (np.maximum(images, 1.5 * grey + 0.5) - images)
    return whitened + layer + layer[:, ::-1, ::-1]


def fog(images: np.ndarray, unit: float, draws: Draws, haze: tuple[float, float]) -> np.ndarray:
    """Lays clouds over images: ``(x + a p) m / (m + a)``, p a plasma in [0, 1], m the brightest value of the image.

    ``haze``: a, and how much fainter each finer octave of the plasma is.
    """
    del unit
    amount, decay = haze
    brightest = np.max(images, axis=(1, 2, 3), keepdims=True)
    clouds = plasma(draws, images.shape[1:3], decay)[..., None]
    return (images + amount * clouds) * brightest / (brightest + amount)


def frost(images: np.ndarray, unit: float, draws: Draws, share: tuple[float, float]) -> np.ndarray:
    """Lays ice crystals over images: ``a x + b ice``, ice in [0, 1].

    ``share``: a and b.
    """
    size = images.shape[1:3]
    starts, arms = _needles(draws)
    short = min(size)
    y, x = np.meshgrid(*[(np.arange(length) + 0.5) / short for length in size], indexing="ij")
    # Crystals grow over the whole of an oblong image.
    starts = starts * np.array(size) / short
    width = max(0.5, 0.55 * unit) / short
    ice = np.zeros((len(images), *size))
    for number in range(starts.shape[1]):
        start, arm = starts[:, number, :, None, None], arms[:, number, :, None, None]
        dy, dx = y - start[:, 0], x - start[:, 1]
        place = np.clip((dy * arm[:, 0] + dx * arm[:, 1]) / np.sum(arm**2, axis=1), 0.0, 1.0)
        distance = (dy - place * arm[:, 0]) ** 2 + (dx - place * arm[:, 1]) ** 2
        ice = np.maximum(ice, (1.0 - 0.5 * place) * np.exp(-distance / width**2))
    ice = 0.25 * plasma(draws, size, 2.0) + 0.75 * ice
    tint = np.ones(1) if images.shape[-1] == 1 else _ICE
    kept, added = share
    return kept * images + added * ice[..., None] * tint


def _needles(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Grows crystals: stems with twigs at 60 degrees, as starts and arms (y, x) [n, s, 2], in sides of the image."""
    root, turn, length = draws.uniform(_CRYSTALS, 2), draws.uniform(_CRYSTALS), draws.uniform(_CRYSTALS)
    angle, length = 2 * np.pi * turn, 0.35 + 0.45 * length
    starts, arms = [root], [_arm(angle, length)]
    for twig in range(_TWIGS):
        place = (twig + 1) / (_TWIGS + 1)
        for side in (-np.pi / 3, np.pi / 3):
            starts.append(root + place * arms[0])
            arms.append(_arm(angle + side, 0.4 * (1 - place) * length))
    return np.concatenate(starts, axis=1), np.concatenate(arms, axis=1)


def _arm(angle: np.ndarray, length: np.ndarray) -> np.ndarray:
    return length[..., None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def plasma(draws: Draws, size: tuple[int, int], decay: float) -> np.ndarray:
    """Sums octaves of random lattices, each finer one fainter by ``decay``, brought to [0, 1], [n, h, w]."""
    side = max(size)
    octaves = math.floor(math.log2(side))
    total = np.zeros(())
    for octave in range(1, octaves + 1):
        cells = 2**octave
        lattice = draws.normal(cells + 1, cells + 1)
        total = total + decay ** (1 - octave) * enlarged(lattice, size, side / cells)
    low, high = (extreme(total, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    return (total - low) / (high - low)


def enlarged(lattice: np.ndarray, size: tuple[int, int], cell: float) -> np.ndarray:
    """Enlarges a lattice [n, a, b] of points ``cell`` pixels apart to [n, h, w], smoothly."""
    for axis, length in ((1, size[0]), (2, size[1])):
        at = np.arange(length) / cell
        step = at - np.floor(at)
        lattice = along(lattice, np.floor(at) + step * step * (3.0 - 2.0 * step), axis)
    return lattice


def points(size: tuple[int, int], cell: float) -> tuple[int, int]:
    """Counts the points of the lattice that ``enlarged`` needs for an image of this size."""
    return math.ceil(size[0] / cell) + 1, math.ceil(size[1] / cell) + 1
