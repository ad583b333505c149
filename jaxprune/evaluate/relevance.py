"""Whether an attribution lies on the object: relevance mass and rank accuracy, the pointing game.

``pooled`` makes one number of 0 or more for every pixel; everything else compares that with a mask of the object.  Two
figures are always read beside them.  The *chance level*, the object's share of the image (``chance``): what a flat or a
random map reaches, so that objects of different sizes aren't compared in raw numbers.  And how many maps are *flat*
(``flat``): a network that is dead gives zeros everywhere.

Ties count by expectation: the result is what a random order among equal pixels gives on average, computed exactly, so
that it does not depend on the order of the pixels.  A map whose values differ by a millionth of the largest or less is
constant up to rounding, and is treated as constant.

All of it is computed in float64, on the host.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from jaxprune import check
from jaxprune.evaluate._maps import levelled
from jaxprune.evaluate._requests import finite

POOLINGS = ("squared", "absolute", "positive", "max", "minmax")


def pooled(maps: Any, how: str) -> np.ndarray:
    """Pools relevance over channels to one number of 0 or more for every pixel.

    With R the relevance, c its channels; in brackets the names of Arras et al.:

        "squared"    sum_c R_c^2  (l2-norm,sq): for gradient methods, in whose channels signs mean little
        "absolute"   |sum_c R_c|  (sum,abs)
        "positive"   max(sum_c R_c, 0)  (sum,pos): what speaks for the class
        "max"        max_c |R_c|  (max-norm)
        "minmax"     (R - min R) / (max R - min R) over the image, one channel: for Grad-CAM and attention, as the
                     paper on pruning (arXiv 2507.01722) does

    "minmax" moves the lowest value of the image to 0, so that the mass of a map depends on its lowest pixel: the same
    map plus a constant has the same mass under "minmax", and another one under the others.  A constant map becomes 0.

    Args:
      maps: relevance [b, h, w, c], finite.
      how: see above.

    Returns:
      float64 [b, h, w], 0 or more.

    Raises:
      ValueError: an unknown name, maps that are not [b, h, w, c] or not finite, "minmax" with several channels.

    Source: Arras, Osman and Samek (2022), arXiv 2003.07258.

    >>> pooled(np.array([[[[1.0, -2.0], [0.0, 3.0]]]]), "squared").tolist()
    [[[5.0, 9.0]]]
    """
    check.choice("how", how, POOLINGS)
    values = np.asarray(maps, np.float64)
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"maps: expected relevance [b, h, w, c], none of them 0, but got the shape {values.shape}.")
    finite("maps", values)
    if how == "squared":
        return np.sum(values**2, axis=-1)
    if how == "absolute":
        return np.abs(np.sum(values, axis=-1))
    if how == "positive":
        return np.maximum(np.sum(values, axis=-1), 0.0)
    if how == "max":
        return np.max(np.abs(values), axis=-1)
    if values.shape[-1] != 1:
        raise ValueError(
            f"how: 'minmax' is for maps of one channel (Grad-CAM, attention), but these have {values.shape[-1]}. Use "
            "'squared' for methods in input space."
        )
    values = levelled(values[..., 0])
    low, high = (extreme(values, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    return (values - low) / np.where(high > low, high - low, 1.0)


def mass(pooled: Any, masks: Any) -> np.ndarray:
    """Computes relevance mass accuracy: the share of the relevance on the object, ``sum_G P / sum P``.

    A map of zeros has the mass 0, and ``flat`` says so; a constant map has the chance level.

    Args:
      pooled: P [b, h, w], 0 or more.
      masks: the object G, bool [b, h, w], none empty.

    Returns:
      float64 [b] in [0, 1].

    Raises:
      ValueError: relevance below 0 or not finite, masks of another size or without a pixel.
      TypeError: masks that are not bool.

    Source: Arras, Osman and Samek (2022), arXiv 2003.07258.

    >>> mass(np.array([[[3.0, 1.0]]]), np.array([[[True, False]]])).tolist()
    [0.75]
    """
    values, masks = _checked(pooled, masks)
    # Only proportions count: neither 1e-300 nor 1e300 shall come out as 0 / 0 or infinity.
    largest = np.max(values, axis=1, keepdims=True)
    values = values / np.where(largest > 0, largest, 1.0)
    total = np.sum(values, axis=1)
    return np.sum(values, axis=1, where=masks) / np.where(total > 0, total, 1.0)


def rank(pooled: Any, masks: Any) -> np.ndarray:
    """Computes relevance rank accuracy: the share of the object among the ``|G|`` pixels of largest relevance.

    Where several pixels have the last of these values, and not all of them fit, each fits with the same probability:
    ``(hits above + places left * share of the object among the tied) / |G|``.  A constant map has the chance level.

    Args:
      pooled: P [b, h, w], 0 or more.
      masks: the object G, bool [b, h, w], none empty.

    Returns:
      float64 [b] in [0, 1].

    Raises:
      ValueError, TypeError: as ``mass``.

    Source: Arras, Osman and Samek (2022), arXiv 2003.07258.

    >>> rank(np.array([[[2.0, 1.0, 1.0]]]), np.array([[[True, True, False]]])).tolist()
    [0.75]
    """
    values, masks = _checked(pooled, masks)
    size = np.sum(masks, axis=1)
    last = np.take_along_axis(-np.sort(-values, axis=1), size[:, None] - 1, axis=1)
    above, tied = values > last, values == last
    left = size - np.sum(above, axis=1)
    ties = np.sum(tied, axis=1)
    # In whole numbers up to the last step, so that a constant map has the chance level exactly.
    return (np.sum(above & masks, axis=1) * ties + left * np.sum(tied & masks, axis=1)) / (size * ties)


def pointing(pooled: Any, masks: Any, *, tolerance: float = 0) -> np.ndarray:
    """Plays the pointing game: whether the pixel of largest relevance lies on the object, or near it.

    Where several pixels have the largest value it is the share of them that hits.

    Args:
      pooled: P [b, h, w], 0 or more.
      masks: the object G, bool [b, h, w], none empty.
      tolerance: the distance from the nearest pixel of the object up to which a pixel hits, in pixels; 15 in the
        source, for images of a few hundred.

    Returns:
      float64 [b] in [0, 1].

    Raises:
      ValueError: a tolerance below 0; else as ``mass``.
      TypeError: as ``mass``.

    Source: Zhang, Lin, Brandt, Shen and Sclaroff (2016), arXiv 1608.00507.

    >>> pointing(np.array([[[2.0, 1.0, 2.0]]]), np.array([[[True, False, False]]])).tolist()
    [0.5]
    """
    values, flat_masks = _checked(pooled, masks)
    near = _near(np.asarray(masks), tolerance).reshape(flat_masks.shape)
    largest = values == np.max(values, axis=1, keepdims=True)
    return np.sum(largest & near, axis=1) / np.sum(largest, axis=1)


def chance(masks: Any, *, tolerance: float = 0) -> np.ndarray:
    """Computes the chance level of all three measures: the object's share of the image, ``|G| / (h w)``.

    Args:
      masks: the object G, bool [b, h, w], none empty.
      tolerance: of the pointing game.

    Returns:
      float64 [b] in (0, 1].

    Raises:
      ValueError: masks without a pixel, a tolerance below 0.
      TypeError: masks that are not bool.

    >>> chance(np.array([[[True, False, False, False]]])).tolist()
    [0.25]
    """
    return np.mean(_near(_masks(masks), tolerance), axis=(1, 2))


def flat(pooled: Any) -> np.ndarray:
    """Says which maps have one value everywhere, 0 or another, and so say nothing of where: bool [b].

    Values that differ by a millionth of the largest, or less, are one: that is rounding in float32.  The mass of these
    maps is 0 (zeros) or the chance level, their rank the chance level.  A figure over many images is read beside the
    number of these.

    >>> flat(np.array([[[0.0, 0.0]], [[0.0, 1.0]]])).tolist()
    [True, False]
    """
    values = _values(pooled)
    return np.max(values, axis=(1, 2)) == np.min(values, axis=(1, 2))


def _values(pooled: Any) -> np.ndarray:
    values = np.asarray(pooled, np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            f"pooled: expected [b, h, w], none of them 0, but got the shape {values.shape}. relevance.pooled makes it "
            "of relevance [b, h, w, c]."
        )
    finite("pooled", values)
    return levelled(values)


def _masks(masks: Any) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.dtype != np.bool_:
        raise TypeError(
            f"masks: expected bool [b, h, w] (True = object), but got {masks.dtype}. Compare to get booleans: a class "
            "of a palette image is palette == number."
        )
    if masks.ndim != 3 or 0 in masks.shape:
        raise ValueError(f"masks: expected bool [b, h, w], none of them 0, but got the shape {masks.shape}.")
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if empty.size:
        raise ValueError(
            f"masks: expected a pixel of the object in every mask, but number {int(empty[0])} has none "
            f"({empty.size} of {len(masks)} are empty). Leave those images out."
        )
    return masks


def _checked(pooled: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Relevance and masks [b, h w]."""
    values, masks = _values(pooled), np.asarray(masks)
    if masks.shape != values.shape:
        raise ValueError(
            f"masks: expected bool [b, h, w] = {values.shape}, but got {masks.shape}. Resize them to the images, and "
            "pad them with False where those are padded."
        )
    masks = _masks(masks)
    if np.min(values) < 0:
        raise ValueError(
            f"pooled: expected relevance of 0 or more, but found {np.min(values):g}. relevance.pooled(maps, how) says "
            "what happens to negative relevance."
        )
    return values.reshape(len(values), -1), masks.reshape(len(masks), -1)


def _near(masks: np.ndarray, tolerance: float) -> np.ndarray:
    """The pixels whose distance from the object is at most the tolerance."""
    if not check.is_number(tolerance) or not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance: expected 0 or more pixels, but got {tolerance!r}.")
    if tolerance == 0:
        return masks
    return np.stack([np.asarray(ndimage.distance_transform_edt(~mask)) <= tolerance for mask in masks])
