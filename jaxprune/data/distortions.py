"""Parametric distortions: those of the benchmark of people and networks that need no download, at its levels."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxprune import check
from jaxprune.data._draws import Draws
from jaxprune.data._pixels import checked_images, checked_indices

_GREY = 0.4423  # the mean of the benchmark's images: around the image, and the mean after the high-pass filter
_LUMINANCE = (0.2125, 0.7154, 0.0721)  # Rec. 709, rounded as the published script has it
_NOISE_CONTRAST = 0.3  # left under the noise, so that little of it is clipped
_CHUNK = 2**19  # numbers at once


class _Setting(NamedTuple):
    """What a distortion depends on beside the grey images [n, h, w] and the level."""

    draws: Draws
    unit: float
    amplitude: np.ndarray


def _contrast(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    del setting
    return _lowered(grey, int(level[1:]) / 100)


def _high_pass(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    # Of a filter without end only the surrounding grey passes.
    low = _GREY if level == "inf" else _blurred(grey, float(level) * setting.unit)
    removed = grey - low
    return removed - removed.mean(axis=(1, 2), keepdims=True) + _GREY


def _low_pass(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    return _blurred(grey, float(level) * setting.unit)


def _phase_scrambling(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    height, width = grey.shape[1:]
    drawn = (2 * setting.draws.uniform(height, width) - 1) * math.radians(float(level))
    # Of a frequency and its opposite one is turned forth and the other back; what is its own opposite stays.
    place = np.arange(height * width).reshape(height, width)
    opposite = _reversed(place[None])[0]
    turned = np.where(place < opposite, drawn, np.where(place > opposite, -_reversed(drawn), 0.0))
    return np.real(np.fft.ifft2(np.fft.fft2(grey) * np.exp(1j * turned)))


def _power_equalisation(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    if level == "0":
        return grey
    spectrum = np.fft.fft2(grey)
    size = np.abs(spectrum)
    # What is zero but for rounding has no phase: its direction would differ from machine to machine.
    present = size > 1e-12 * size.max(axis=(1, 2), keepdims=True)
    direction = np.where(present, spectrum / np.where(present, size, 1.0), 1.0)
    return np.real(np.fft.ifft2(setting.amplitude * direction))


def _rotation(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    del setting
    return np.rot90(grey, int(level) // 90, axes=(1, 2))


def _uniform_noise(grey: np.ndarray, level: str, setting: _Setting) -> np.ndarray:
    noise = 2 * setting.draws.uniform(*grey.shape[1:]) - 1
    return _lowered(grey, _NOISE_CONTRAST) + float(level) * noise


class _Distortion(NamedTuple):
    apply: Callable[[np.ndarray, str, _Setting], np.ndarray]
    levels: tuple[str, ...]


_TABLE: dict[str, _Distortion] = {
    "colour": _Distortion(lambda grey, level, setting: grey, ("cr", "bw")),
    "contrast": _Distortion(_contrast, ("c100", "c50", "c30", "c15", "c10", "c05", "c03", "c01")),
    "high-pass": _Distortion(_high_pass, ("inf", "3.0", "1.5", "1.0", "0.7", "0.55", "0.45", "0.4")),
    "low-pass": _Distortion(_low_pass, ("0", "1", "3", "5", "7", "10", "15", "40")),
    "phase-scrambling": _Distortion(_phase_scrambling, ("0", "30", "60", "90", "120", "150", "180")),
    "power-equalisation": _Distortion(_power_equalisation, ("0", "pow")),
    "rotation": _Distortion(_rotation, ("0", "90", "180", "270")),
    "uniform-noise": _Distortion(_uniform_noise, ("0.0", "0.03", "0.05", "0.1", "0.2", "0.35", "0.6", "0.9")),
}

DISTORTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({name: entry.levels for name, entry in _TABLE.items()})
"""The levels of each distortion, called as the benchmark calls its conditions; the first is the control."""


def distort(
    images: np.ndarray,
    name: str,
    level: str,
    seed: int,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    reference: float = 224.0,
    amplitude: np.ndarray | None = None,
) -> np.ndarray:
    """Distorts images as the parametric data sets of the benchmark model-vs-human do; g is grey, L is luminance.

    colour: "cr" leaves the image, "bw" gives g = L.  All others show grey images, in every channel:
    contrast: ``(1 - c) / 2 + c g``, c in percent.  uniform-noise: contrast 0.3, then ``+ U(-w, w)`` at each pixel.
    low-pass: a Gaussian filter of that standard deviation, the image standing in grey 0.4423.  high-pass:
    ``g - low-pass(g)``, its mean moved to 0.4423; "inf" removes the surrounding grey only.  phase-scrambling: the phase
    of each frequency turned by ``U(-w, w)`` degrees, and that of its opposite back.  power-equalisation: "pow" keeps
    the phases and gives every image the same amplitudes.  rotation: by quarters, anticlockwise.  All is clipped to
    [0, 1].

    Standard deviations are those for images of 224 pixels, and in proportion to the shorter side: a scene of 32 pixels
    is blurred as if it were seen at 224.  Small images have no fine detail to be kept by the strict high-pass filters,
    which leave nothing of them: at 32 pixels that is 1.5 and below.  With ``reference=32`` a deviation of 1 is a pixel.

    Eidolons and false colours are left out: they need tools and tables that cannot be shipped.

    Image i depends on (image, name, level, seed, index i) and on no other image, but for power-equalisation without an
    ``amplitude``.  Random numbers do not depend on the level.

    Args:
      images: float [n, h, w, c] in [0, 1]; c is 1 or 3, h and w are 8 or more.
      name: one of ``DISTORTIONS``.
      level: one of ``DISTORTIONS[name]``.
      seed: of everything random.
      indices: the index of each image in its data set [n].  None: 0 to n - 1.
      reference: the shorter side in pixels at which standard deviations are in pixels.
      amplitude: of power-equalisation, [h, w].  None: ``mean_amplitude(images)``, of these images.

    Returns:
      Images of the same shape and type; quarter turns swap h and w.

    Raises:
      ValueError: unknown name or level; images that are not as above; not one index for each image; an amplitude of
        another size, or one for another distortion.
      TypeError: images that are not floating-point.

    Source: Geirhos et al. (2018), arXiv 1808.08750, and (2021), arXiv 2106.07411; recipes from
    github.com/rgeirhos/generalisation-humans-DNNs.

    >>> images = np.linspace(0, 1, 192, dtype=np.float32).reshape(3, 8, 8, 1)
    >>> distort(images, "contrast", "c10", 0).min().item()
    0.44999998807907104
    """
    check.choice("name", name, DISTORTIONS)
    check.choice("level", level, DISTORTIONS[name], ordered=True)
    check.positive("reference", reference)
    images = checked_images(images)
    places = checked_indices(indices, len(images))
    powers = _amplitude(images, name, level, amplitude)
    if (name, level) == ("colour", "cr"):
        return images.copy()
    height, width, channels = images.shape[1:]
    unit, step, parts = min(height, width) / reference, max(1, _CHUNK // (height * width)), []
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        setting = _Setting(Draws(f"distortion/{name}", seed, places[rows].tolist()), unit, powers)
        made = np.clip(_TABLE[name].apply(_grey(images[rows]), level, setting), 0.0, 1.0)
        parts.append(np.repeat(made[..., None], channels, axis=-1).astype(images.dtype))
    return np.concatenate(parts)


def mean_amplitude(images: np.ndarray) -> np.ndarray:
    """Computes the mean over images of the amplitudes ``|FFT(g)|`` of the grey images: what power-equalisation gives.

    Args:
      images: float [n, h, w, c] in [0, 1].

    Returns:
      Float64 [h, w], the frequency 0 first.

    Raises:
      ValueError: images that ``distort`` would not take.
      TypeError: images that are not floating-point.

    >>> float(mean_amplitude(np.full((2, 8, 8, 3), 0.5))[0, 0])
    32.0
    """
    images = checked_images(images)
    total, step = np.zeros(images.shape[1:3]), max(1, _CHUNK // images[0, ..., 0].size)
    for start in range(0, len(images), step):
        total += np.sum(np.abs(np.fft.fft2(_grey(images[start : start + step]))), axis=0)
    return total / len(images)


def _amplitude(images: np.ndarray, name: str, level: str, given: np.ndarray | None) -> np.ndarray:
    if given is not None and name != "power-equalisation":
        raise ValueError(
            f"amplitude: expected it with 'power-equalisation' only, but the name is {name!r}. Leave it out."
        )
    if (name, level) != ("power-equalisation", "pow"):
        return np.zeros(0)
    result = mean_amplitude(images) if given is None else np.asarray(given, np.float64)
    if result.shape != images.shape[1:3] or not np.all(np.isfinite(result) & (result >= 0)):
        raise ValueError(
            f"amplitude: expected numbers of 0 or more [h, w] = {images.shape[1:3]}, but got the shape {result.shape} "
            f"and the lowest {np.min(result, initial=np.inf):g}. Take those of mean_amplitude(images)."
        )
    return result


def _grey(images: np.ndarray) -> np.ndarray:
    values = images.astype(np.float64)
    # One product after the other: a matrix product may round differently with the number of images.
    if values.shape[-1] == 1:
        return values[..., 0]
    red, green, blue = (values[..., i] * share for i, share in enumerate(_LUMINANCE))
    return red + green + blue


def _lowered(grey: np.ndarray, contrast: float) -> np.ndarray:
    return (1 - contrast) / 2 + contrast * grey


def _blurred(grey: np.ndarray, std: float) -> np.ndarray:
    return ndimage.gaussian_filter(grey, (0, std, std), mode="constant", cval=_GREY)


def _reversed(values: np.ndarray) -> np.ndarray:
    """Reads every frequency's opposite: the index (-i, -j) of [n, h, w]."""
    return np.roll(values[:, ::-1, ::-1], 1, axis=(1, 2))
