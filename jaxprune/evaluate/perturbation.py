"""Whether an attribution matters to the network: its output while the most relevant pixels come or go.

*Insertion* starts from an image without content and shows the pixels in the order of their relevance: the sooner the
score rises, the better, and a large area is good.  *Deletion* takes them away in that order: a small area is good.

Both show the network images unlike those it was trained on, in a way that depends on the baseline.  Compare networks
under one baseline, and every curve with its controls: a random order (``random_order``) and the reverse order
(``-pooled``).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, draws, processes
from jaxprune.evaluate._maps import levelled
from jaxprune.evaluate._requests import colours, finite, logit, ready, settled
from jaxprune.network import Network

__all__ = ["Curve", "deletion", "insertion", "logit", "probability", "random_order"]


class Curve(NamedTuple):
    """The score of every image while its pixels come or go.

    Attributes:
      fractions: the share of the pixels that were moved, float64 [k] from 0 to 1.
      values: the scores, float64 [b, k].
      area: the area under each curve, by the trapezoidal rule, float64 [b].
    """

    fractions: np.ndarray
    values: np.ndarray
    area: np.ndarray


Score = Callable[[Any, Any], Any]
"""``(outputs [b, c], targets int [b]) -> [b]``."""


def probability(outputs: Any, targets: Any) -> Any:
    """Computes the probability of the target class, ``softmax(outputs)[target]``.

    >>> probability(jnp.array([[0.0, 0.0]]), jnp.array([1])).tolist()
    [0.5]
    """
    return logit(jax.nn.softmax(outputs, axis=1), targets)


def insertion(
    network: Network,
    images: Any,
    pooled: Any,
    *,
    baseline: Any = 0.0,
    steps: int = 50,
    targets: Any = None,
    score: Score = probability,
    key: jax.Array | None = None,
) -> Curve:
    """Shows the pixels of an image in the order of their relevance, and follows the score of a class.

    After step j of n the ``round(j h w / n)`` most relevant pixels are those of the image, and the others the
    baseline's.  Pixels of equal relevance, and all of a map that ``relevance.flat`` flags, come in a random order, a
    function of the key and of the position in the batch.  ``steps + 1`` evaluations of the batch.

    Args:
      network: evaluated in evaluation mode.
      images: [b, h, w, c].
      pooled: relevance [b, h, w], of any sign: only its order matters.
      baseline: what a pixel without content is: a number, a colour [c], an image [h, w, c], or images [b, h, w, c] such
        as the same ones blurred.
      steps: 1 to h w; with h w of them pixels move one by one.
      targets: int [b]; None: the class that the network decides for on the whole image.
      score: ``(outputs [b, c], targets [b]) -> [b]``: ``probability``, ``logit`` or another; each is compiled.
      key: of the order among equal pixels; None: ``jax.random.key(0)``.

    Returns:
      Fractions [steps + 1], values [b, steps + 1] and area [b].

    Raises:
      ValueError: relevance of another size than the images, or not finite; a baseline that does not fit, more steps
        than pixels, a score that is not one number for each image; images or targets as in every attribution.
      TypeError: images that are not floating-point, targets that are not integers, a baseline that is no number, a key
        that is none.

    Source: Petsiuk, Das and Saenko (2018), arXiv 1806.07421.

    >>> net = Network(lambda p, s, x: x.sum(axis=(1, 2)), {})
    >>> images = jnp.array([[[[4.0], [1.0]]]])
    >>> curve = insertion(net, images, images[..., 0], steps=2, score=logit)
    >>> curve.fractions.tolist(), curve.values.tolist(), curve.area.tolist()
    ([0.0, 0.5, 1.0], [[0.0, 4.0, 5.0]], [3.25])
    """
    return _curve(network, images, pooled, baseline, steps, targets, score, key, inserted=True)


def deletion(
    network: Network,
    images: Any,
    pooled: Any,
    *,
    baseline: Any = 0.0,
    steps: int = 50,
    targets: Any = None,
    score: Score = probability,
    key: jax.Array | None = None,
) -> Curve:
    """Takes the pixels of an image away in the order of their relevance, and follows the score of a class.

    After step j of n the ``round(j h w / n)`` most relevant pixels are the baseline's.  Everything else is as in
    ``insertion``, whose compiled program it shares.

    Args:
      network: evaluated in evaluation mode.
      images: [b, h, w, c].
      pooled: relevance [b, h, w], of any sign.
      baseline: what a pixel without content is.
      steps: 1 to h w.
      targets: int [b]; None: the class that the network decides for on the whole image.
      score: ``(outputs [b, c], targets [b]) -> [b]``.
      key: of the order among equal pixels; None: ``jax.random.key(0)``.

    Returns:
      Fractions [steps + 1], values [b, steps + 1] and area [b].

    Raises:
      ValueError, TypeError: as ``insertion``.

    Source: Petsiuk, Das and Saenko (2018), arXiv 1806.07421.

    >>> net = Network(lambda p, s, x: x.sum(axis=(1, 2)), {})
    >>> images = jnp.array([[[[4.0], [1.0]]]])
    >>> deletion(net, images, images[..., 0], steps=2, score=logit).values.tolist()
    [[5.0, 1.0, 0.0]]
    """
    return _curve(network, images, pooled, baseline, steps, targets, score, key, inserted=False)


def random_order(key: jax.Array, shape: tuple[int, int, int]) -> np.ndarray:
    """Makes relevance that is uniform noise, float64 [b, h, w]: the control to insertion, deletion, mass and rank.

    The n-th image gets the same noise whatever the size of the batch.

    Args:
      key: of the noise.
      shape: (b, h, w).

    Raises:
      ValueError: a shape of more or fewer axes, or of sides that are not whole.
      TypeError: a key that is none.

    >>> random_order(jax.random.key(0), (2, 3, 4)).shape
    (2, 3, 4)
    """
    check.key("key", key)
    sides = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    if len(sides) != 3:
        raise ValueError(f"shape: expected (b, h, w), the shape of pooled relevance, but got {shape!r}.")
    sizes = [check.whole(f"shape[{axis}]", side) for axis, side in enumerate(sides)]
    return np.asarray(_uniform(key, shape=tuple(sizes)), np.float64)


def _curve(
    network: Network,
    images: Any,
    pooled: Any,
    baseline: Any,
    steps: int,
    targets: Any,
    score: Score,
    key: jax.Array | None,
    *,
    inserted: bool,
) -> Curve:
    images, targets = ready(network, images, targets)
    blank = colours("baseline", baseline, images)
    check.whole("steps", steps)
    pixels = images.shape[1] * images.shape[2]
    if steps > pixels:
        raise ValueError(f"steps: expected at most {pixels}, the pixels of an image, but got {steps}.")
    _check_score(network, images, score)
    places = jnp.asarray(_places(pooled, images.shape[:3], jax.random.key(0) if key is None else key))
    targets = settled(network, images, targets)
    counts = np.round(np.linspace(0, pixels, steps + 1)).astype(np.int32)
    moved, kept = (images, blank) if inserted else (blank, images)
    values = [_score(network, moved, kept, places, count, targets, score=score) for count in counts]
    curves = np.stack([processes.read(value).astype(np.float64) for value in values], axis=1)
    fractions = counts / pixels
    return Curve(fractions, curves, np.trapezoid(curves, fractions, axis=1))


def _check_score(network: Network, images: Any, score: Score) -> None:
    """Checks that a score gives one number for each image, without computing it."""
    outputs = jax.eval_shape(network.apply, network.params, network.state, images)
    found = jax.eval_shape(score, outputs, jax.ShapeDtypeStruct((len(images),), jnp.int32))
    if getattr(found, "shape", None) != (len(images),):
        came = getattr(found, "shape", found)
        raise ValueError(
            f"score: expected (outputs [b, c], targets [b]) -> [b] = ({len(images)},), one number for each image, but "
            f"it returns {came}. perturbation.logit and perturbation.probability are such scores."
        )


def _places(pooled: Any, shape: tuple[int, ...], key: jax.Array) -> np.ndarray:
    """The place of every pixel in the order of relevance, the largest first: int32 [b, h, w]."""
    values = np.asarray(pooled, np.float64)
    if values.shape != shape:
        raise ValueError(
            f"pooled: expected relevance [b, h, w] = {shape}, but got {values.shape}. relevance.pooled makes it of an "
            "attribution [b, h, w, c]."
        )
    finite("pooled", values)
    values = levelled(values)
    count, height, width = shape
    chance = random_order(key, (count, height, width)).reshape(count, -1)
    order = np.lexsort((chance, -values.reshape(count, -1)))
    places = np.empty(order.shape, np.int32)
    np.put_along_axis(places, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
    return places.reshape(shape)


@partial(jax.jit, static_argnames="shape")
def _uniform(key: jax.Array, *, shape: tuple[int, int, int]) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(shape[0]))
    # In float32 whatever the settings are, so that a key means one order.
    return jax.vmap(lambda key: draws.shaped(jax.random.uniform, key, shape[1:], jnp.float32))(keys)


@partial(jax.jit, static_argnames="score")
@jax.default_matmul_precision("highest")
def _score(network: Network, moved: Any, kept: Any, places: Any, count: Any, targets: Any, *, score: Score) -> Any:
    """The score of images whose first ``count`` places come from one and the others from another."""
    return score(network(jnp.where((places < count)[..., None], moved, kept)), targets)
