"""Classes without labels: what discovered boxes show, sorted by k-means over a network's features."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import check, sites
from jaxprune.evaluate._requests import ready
from jaxprune.evaluate.boxes import checked
from jaxprune.network import Network


class Agreement(NamedTuple):
    """How well clusters fit classes.

    Attributes:
      purity: the share of examples that belong to the commonest class of their cluster, in (0, 1].  It grows with the
        number of clusters.
      information: the adjusted mutual information: 1 where clusters and classes are the same, about 0 by chance.
    """

    purity: float
    information: float


def pseudo_labels(
    network: Network,
    images: Any,
    boxes: Any,
    *,
    clusters: int,
    seed: int,
    site: str = "features",
    batch: int = 64,
) -> np.ndarray:
    """Sorts images into classes by what their boxes show.

    Each box is cut out, enlarged (bicubic) to the size of the images, and read by the network.  The features are made
    of length 1, each dimension is divided by its standard deviation over the set, the rows are made of length 1 again,
    and k-means (ten starts by k-means++) sorts them.  LOST's own script differs in two ways: it keeps the proportions
    of what it cuts out, which needs a network of any image size, and starts k-means once.

    Args:
      network: the network.
      images: float [n, h, w, c] in [0, 1].
      boxes: one for each image, (y0, x0, y1, x1) in pixels, int [n, 4], such as ``lost(...).box``.
      clusters: how many classes, at most n.
      seed: of k-means.
      site: a tagged value [n, d], see ``jp.sites.tags``; of a vision transformer "features" is its class token.
      batch: how many images are read at once.

    Returns:
      The cluster of each image, int32 [n] in [0, clusters).  Where the features have fewer distinct rows than
      ``clusters``, as those of a network that is pruned to nothing, there are only as many clusters.

    Raises:
      ValueError: no such site, or one that is not [n, d]; boxes of another number, or outside of the images; clusters
        or batch out of range.
      TypeError: images that are not floating-point, boxes that are not whole pixels.

    Source: Siméoni et al. (2021), arXiv 2109.14279.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x.mean(axis=(1, 2)) * p, "features"), jnp.ones(()))
    >>> images = np.zeros((4, 8, 8, 3), np.float32)
    >>> images[:2, 2:6, 2:6, 0] = images[2:, 2:6, 2:6, 1] = 1.0
    >>> found = pseudo_labels(net, images, [[2, 2, 6, 6]] * 4, clusters=2, seed=0)
    >>> (found == found[0]).tolist()
    [True, True, False, False]
    """
    images = np.asarray(images)
    ready(network, images[:1], None)
    check.finite("images", images, "Inspect the preprocessing.")
    check.whole("batch", batch)
    check.whole("clusters", clusters)
    if clusters > len(images):
        raise ValueError(f"clusters: expected at most {len(images)}, the number of images, but got {clusters}.")
    boxes = _inside(boxes, images.shape)
    check.choice("site", site, sites.tags(network, images[:1]))
    return _clusters(whitened(_read(network, images, boxes, site, batch)), clusters, seed)


def agreement(labels: Any, classes: Any) -> Agreement:
    """Compares clusters with true classes: purity, and adjusted mutual information.

    Args:
      labels: the cluster of each example, int [n].
      classes: its true class, int [n].

    Raises:
      ValueError: arrays of other shapes, or of different length.

    Source: Vinh, Epps and Bailey (2010), J. Machine Learning Research 11 (the adjustment for chance).

    >>> agreement([0, 0, 1, 1], [5, 5, 3, 3])
    Agreement(purity=1.0, information=1.0)
    >>> agreement([0, 0, 0, 0], [5, 5, 3, 3])
    Agreement(purity=0.5, information=0.0)
    """
    from sklearn.metrics import adjusted_mutual_info_score  # takes a second to import
    from sklearn.metrics.cluster import contingency_matrix

    labels, classes = np.asarray(labels), np.asarray(classes)
    if labels.ndim != 1 or labels.shape != classes.shape or not len(labels):
        raise ValueError(
            f"labels, classes: expected two arrays of one length n, 1 or more, but got {labels.shape} and "
            f"{classes.shape}. Both follow the order of the images."
        )
    table = np.asarray(contingency_matrix(classes, labels))
    information = float(adjusted_mutual_info_score(classes, labels))
    return Agreement(float(np.sum(np.max(table, axis=0)) / len(labels)), information)


def whitened(rows: np.ndarray) -> np.ndarray:
    """Makes rows [n, d] of length 1, divides each dimension by its standard deviation, and makes the rows of length 1.

    A dimension that does not vary becomes zero.
    """
    rows = _unit(rows)
    spread = np.std(rows, axis=0)
    # What is left of a constant is rounding, and dividing would make noise of it.
    varies = spread > 1e-6 * np.max(np.abs(rows), axis=0, initial=0.0)
    return _unit(np.where(varies, rows / np.where(varies, spread, 1.0), 0.0))


def _inside(boxes: Any, images: tuple[int, ...]) -> np.ndarray:
    boxes = checked("boxes", boxes)
    if len(boxes) != images[0]:
        raise ValueError(f"boxes: expected one for each of {images[0]} images, but got {len(boxes)}.")
    outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2] > images[1]) | (boxes[:, 3] > images[2])
    if outside.any():
        number = int(np.argmax(outside))
        raise ValueError(
            f"boxes: expected boxes inside of {images[1]} x {images[2]} pixels, but box {number} is "
            f"{boxes[number].tolist()}. Pass image=(height, width) to lost, so that its boxes are in pixels."
        )
    return boxes


def _read(network: Network, images: np.ndarray, boxes: np.ndarray, site: str, batch: int) -> np.ndarray:
    """The site's value for what each box shows, float64 [n, d]."""
    each, parts = min(batch, len(images)), []
    for first in range(0, len(images), each):
        # The last part is filled up, so that one program serves all.
        numbers = np.minimum(np.arange(first, first + each), len(images) - 1)
        shown = np.stack([_enlarged(images[number], boxes[number]) for number in numbers])
        (value,) = sites.read_jit(network, jnp.asarray(shown), sites=(site,))
        if value.ndim != 2:
            raise ValueError(
                f"site: expected one vector for each image, [n, d], but {site!r} is {value.shape}. Choose 'features', "
                "or another value without places."
            )
        parts.append(np.asarray(value, np.float64)[: len(images) - first])
    rows = np.concatenate(parts)
    check.finite("features", rows, "Does the network still work, or has its pruning gone too far?")
    return rows


def _enlarged(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Cuts a box out of an image [h, w, c], and resizes it to the size of the image."""
    from PIL import Image

    y0, x0, y1, x1 = box
    shown, size = image[y0:y1, x0:x1].astype(np.float32), (image.shape[1], image.shape[0])
    channels = [Image.fromarray(np.ascontiguousarray(shown[..., number])) for number in range(image.shape[2])]
    resized = [np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) for channel in channels]
    # Bicubic curves overshoot at edges.
    return np.clip(np.stack(resized, axis=-1), 0.0, 1.0).astype(image.dtype)


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _clusters(rows: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans  # takes a second to import

    distinct = len(np.unique(rows, axis=0))
    # What is inferred of scikit-learn takes the number of starts for a string.
    means = KMeans(min(clusters, distinct), n_init=10, random_state=seed)  # type: ignore[arg-type]
    return means.fit_predict(rows).astype(np.int32)
