"""Object discovery without labels: where a network's own features say that the object is.

    features = discovery.tokens(network, images, "block11/keys")           # a vision transformer
    features = discovery.standardised(discovery.tokens(net, images, "stage4/block1"))   # a convolutional network
    found = discovery.lost(features, image=images.shape[1:3])
    hits = discovery.corloc(found.box, boxes).hits

LOST and TokenCut each give one box for an image.  Both take the object to be smaller than the background: where it
covers most of the places, LOST boxes the background.  So CorLoc depends on the size and the place of the objects, and
says little without that of ``whole_image`` and ``centre_box`` beside it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxprune import check
from jaxprune.evaluate._components import component, edges, extent
from jaxprune.evaluate.boxes import Localised, centre_box, corloc, iou, whole_image
from jaxprune.evaluate.features import checked, moved_tokens, standardised, tokens
from jaxprune.evaluate.pseudo_labels import Agreement, agreement, pseudo_labels

__all__ = [
    "Agreement",
    "Localised",
    "Lost",
    "TokenCut",
    "agreement",
    "centre_box",
    "corloc",
    "iou",
    "lost",
    "moved_tokens",
    "pseudo_labels",
    "standardised",
    "token_cut",
    "tokens",
    "whole_image",
]

# The weight of an edge between unlike places: TokenCut's graph is connected.
_WEAK = 1e-5

# Below this share of an eigenvector's largest entry, float64 can't tell two of its entries apart.
_ALIKE = 1e-9


class Lost(NamedTuple):
    """What LOST found in each image.

    Attributes:
      box: (y0, x0, y1, x1) around the mask, half-open, in pixels (in places where no image was given), int32 [b, 4].
      mask: the places of the object, bool [b, h, w].
      seed: (row, column) of the place that it grew from, int32 [b, 2].
      degree: how many other places are like a place, int32 [b, h, w].
    """

    box: Any
    mask: Any
    seed: Any
    degree: Any


class TokenCut(NamedTuple):
    """What TokenCut found in each image.

    Attributes:
      box: (y0, x0, y1, x1) around the mask, half-open, in pixels (in places where no image was given), int32 [b, 4].
      mask: the places of the object, bool [b, h, w].
      seed: (row, column) of the place with the largest entry, int32 [b, 2].
      vector: the second eigenvector, above its mean on the object's side, length 1, float64 [b, h, w].
      gap: from its eigenvalue to the third, float64 [b].  Near 0 the vector, and with it the mask, is arbitrary.
    """

    box: Any
    mask: Any
    seed: Any
    vector: Any
    gap: Any


def lost(
    features: Any,
    *,
    candidates: int = 100,
    image: tuple[int, int] | None = None,
    scale: float | tuple[float, float] | None = None,
) -> Lost:
    """Finds one object in each image from a seed that is like few other places (LOST).

    With ``A = F F'`` the products of all pairs of places: the degree of p is the number of other places q with A_pq >
    0; the seed is the place of lowest degree; S are those of the ``candidates`` places of lowest degree with
    A_seed,s > 0; the object is what hangs together with the seed (over sides, not corners) in ``sum_s A_sq > 0``.

    Of equal degrees the first place, row by row, comes first.  The seed is in the object always; a place whose features
    are all zero is like no other, so it becomes the seed, and the object is that place alone.  Features are used as
    they are, signs and all: those after a ReLU need ``standardised`` first.  A sign is only as sure as the arithmetic,
    that of the features' own type (float32 at least).

    Args:
      features: [b, h, w, d], from ``tokens``.
      candidates: how many places of lowest degree may belong to S; at most all.
      image: (height, width) in pixels, without padding; boxes are then in pixels, and clipped to it.
      scale: pixels of a place, one number or (rows, columns): the padded size of the image divided by the grid's.
        None: the grid covers the image exactly.  What is no whole number of pixels is rounded outward.

    Returns:
      Boxes, masks, seeds and degrees.

    Raises:
      ValueError: features that are not [b, h, w, d] or not finite, candidates below 1, a scale without an image.
      TypeError: features that are not floating-point.

    Source: Siméoni, Puy, Vo, Roburin, Gidaris, Bursuc, Pérez, Marlet and Ponce (2021), arXiv 2109.14279.

    >>> features = jnp.ones((1, 7, 7, 2)).at[:, 2:4, 3:6].set(-1.0)
    >>> lost(features, image=(112, 112)).box.tolist()
    [[32, 48, 64, 96]]
    """
    features = checked(features)
    check.whole("candidates", candidates)
    height, width = features.shape[1:3]
    pixels = edges((height, width), image, scale)
    mask, seed, degree = _lost(features, candidates=min(candidates, height * width))
    return Lost(extent(mask, pixels), mask, seed, degree)


@partial(jax.jit, static_argnames="candidates")
@jax.default_matmul_precision("highest")
def _lost(features: Any, *, candidates: int) -> tuple[Any, Any, Any]:
    """Masks, seeds and degrees."""
    count, height, width, size = features.shape

    def grown(flat: Any) -> tuple[Any, Any, Any]:
        flat = _near_one(flat)
        similarity = flat @ flat.T
        # Counted in floats, which XLA vectorises on CPU; exact up to 2^24.
        alike = jnp.sum(similarity > 0, axis=1, dtype=jnp.float32)
        degree = (alike - (jnp.diagonal(similarity) > 0)).astype(jnp.int32)
        lowest = jax.lax.top_k(-degree, candidates)[1]  # of equal ones the first
        seed = lowest[0]
        chosen = jnp.zeros(len(flat), bool).at[lowest].set(True) & (similarity[seed] > 0)
        return chosen.astype(flat.dtype) @ similarity > 0, seed, degree

    # One image at a time: its similarities stay in the cache, where those of all would be written to memory and read.
    mask, seed, degree = jax.lax.map(grown, features.reshape(count, height * width, size))
    seed = _position(seed, width)
    return component(mask.reshape(count, height, width), seed), seed, degree.reshape(count, height, width)


def token_cut(
    features: Any,
    *,
    threshold: float = 0.2,
    image: tuple[int, int] | None = None,
    scale: float | tuple[float, float] | None = None,
) -> TokenCut:
    """Finds one object in each image by a normalised cut of the graph of its places (TokenCut).

    Places whose features have a cosine above ``threshold`` are joined by an edge of weight 1, all others by 1e-5.  With
    W these weights and D their row sums, y is the second smallest eigenvector of ``(D - W) y = lambda D y``, cut at its
    mean; the object's side is that of the seed, the entry of largest size, and the object is what hangs together with
    the seed (over sides) on that side.

    What only rounding decides follows a rule: entries that differ by less than 1e-9 of the largest are equal; of equal
    largest entries the first place, row by row, is the seed; entries at the mean are background.  Where all weights are
    equal there is nothing to cut: the object is the whole grid.  Where the second eigenvalue is a multiple one (``gap``
    is about 0) the vector is whatever LAPACK returns.  Cosines are of the features' own type (float32 at least), the
    graph and its vectors are float64 on the host, as float32 can't tell eigenvalues of 1e-5 apart: at 28 x 28 places
    that takes a few tenths of a second for each image.

    Args:
      features: [b, h, w, d], from ``tokens``; 3 places or more.
      threshold: in (-1, 1).
      image: (height, width) in pixels, without padding; see ``lost``.
      scale: pixels of a place; see ``lost``.

    Returns:
      Boxes, masks, seeds, eigenvectors and the gaps of their eigenvalues.

    Raises:
      ValueError: features that are not [b, h, w, d] or not finite, or of fewer than 3 places, a threshold outside of
        (-1, 1), a scale without an image.
      TypeError: features that are not floating-point.

    Source: Wang, Shen, Hu, Yuan, Crowley and Vaufreydaz (2022), arXiv 2202.11539.

    >>> features = jnp.ones((1, 7, 7, 2)).at[:, 2:4, 3:6].set(-1.0)
    >>> token_cut(features, image=(112, 112)).box.tolist()
    [[32, 48, 64, 96]]
    """
    features = checked(features)
    count, height, width, _ = features.shape
    if height * width < 3:
        raise ValueError(
            f"features: expected 3 places or more, but got {height} x {width}. Read an earlier, finer map."
        )
    if not check.is_number(threshold) or not -1 < threshold < 1:
        raise ValueError(f"threshold: expected a cosine in (-1, 1), but got {threshold!r}. TokenCut uses 0.2.")
    pixels = edges((height, width), image, scale)
    # One image at a time: LAPACK has no batches, and the graph of one is large enough.
    cuts = [_cut(np.asarray(_joined(features[number], threshold))) for number in range(count)]
    vector = np.stack([vector for vector, _ in cuts])
    largest = np.max(np.abs(vector), axis=1, keepdims=True)
    first = np.argmax(np.abs(vector) >= (1 - _ALIKE) * largest, axis=1)
    centred = vector - np.mean(vector, axis=1, keepdims=True)
    sign = np.where(np.take_along_axis(centred, first[:, None], axis=1) < 0, -1.0, 1.0)
    side = (sign * centred > _ALIKE * largest) | (largest == 0)
    seed = _position(jnp.asarray(first), width)
    mask = component(jnp.asarray(side.reshape(count, height, width)), seed)
    gap = np.array([gap for _, gap in cuts])
    return TokenCut(extent(mask, pixels), mask, seed, (sign * vector).reshape(count, height, width), gap)


@jax.jit
@jax.default_matmul_precision("highest")
def _joined(features: Any, threshold: Any) -> Any:
    """Which places [h, w, d] have a cosine above the threshold, bool [places, places]."""
    flat = _near_one(features).reshape(-1, features.shape[-1])
    length = jnp.sqrt(jnp.sum(flat**2, axis=1, keepdims=True))
    flat = flat / jnp.where(length > 0, length, 1)
    return flat @ flat.T > threshold


def _cut(joined: np.ndarray) -> tuple[np.ndarray, float]:
    """The second eigenvector of a graph, of length 1, and how far the third eigenvalue is; zeros where none is cut."""
    if joined.all() or not joined.any():
        return np.zeros(len(joined)), 0.0
    weights = np.where(joined, 1.0, _WEAK)
    # With z = D^(1/2) y the problem is an ordinary symmetric one.
    root = np.sqrt(np.sum(weights, axis=1))
    laplacian = np.eye(len(joined)) - weights / root[:, None] / root[None, :]
    values, vectors = scipy.linalg.eigh(laplacian, subset_by_index=[1, 2])
    vector = vectors[:, 0] / root
    return vector / np.linalg.norm(vector), float(values[1] - values[0])


def _near_one(features: Any) -> Any:
    """Scales an image by the power of two that brings its largest entry near 1: nothing is rounded or overflows."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(features)))
    return jnp.ldexp(features, -exponent)


def _position(place: Any, width: int) -> Any:
    """The (row, column) of places that are counted row by row, int32 [b, 2]."""
    return jnp.stack([place // width, place % width], axis=1).astype(jnp.int32)
