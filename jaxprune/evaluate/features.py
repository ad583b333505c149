"""The features of an image's places: what object discovery looks at."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxprune import check, sites
from jaxprune.evaluate import _maps
from jaxprune.evaluate._requests import ready
from jaxprune.network import Network


def tokens(network: Network, images: Any, site: str) -> Any:
    """Reads the features of every place of the images at a tagged site.

    The heads of an attention are put one after the other: keys [b, t, heads, d / heads] of a vision transformer, whose
    class token is left out, or [b, h, w, heads, d / heads] of a Swin transformer.  Tokens [b, t, d] are laid out row by
    row, t or t - 1 (after a class token) being a grid with the proportions of the images; a map is read as it is.

    Args:
      network: the network.
      images: float [b, h, w, c].
      site: a tag, see ``jp.sites.tags``: LOST reads the last block's keys ("block11/keys"), or the last map of a
        convolutional network.  Of four axes it is a map [b, h, w, d], unless it ends in "/keys" or "/heads" or can't
        lie over the images as a map.

    Returns:
      The features, [b, rows, columns, d].

    Raises:
      ValueError: no such site (the message offers those that exist), a value that does not lie over the images, or
        the probabilities of an attention.
      TypeError: images that are not floating-point.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x * p, "map").mean(axis=(1, 2)), jnp.ones(()))
    >>> tokens(net, jnp.ones((1, 4, 6, 3)), "map").shape
    (1, 4, 6, 3)
    """
    images, _ = ready(network, images, None)
    check.choice("site", site, sites.tags(network, images))
    if site.endswith(_maps.PROBABILITIES):
        raise ValueError(
            f"site: {site!r} holds the probabilities of an attention, which are features of no place. Choose the keys "
            "of the attention ('block11/keys'), or the output of a block."
        )
    (value,) = sites.read_jit(network, images, sites=(site,))
    named = site.endswith(_maps.BY_HEADS)
    joined = value
    if value.ndim == 5 or (value.ndim == 4 and (named or _maps.layout(value.shape, images.shape) is None)):
        joined = value.reshape(*value.shape[:-2], -1)
    places = _maps.laid_out(joined, images.shape)
    if places is None:
        raise ValueError(
            f"site: {site!r} is {value.shape}, but object discovery needs a map [b, h, w, d], or tokens [b, t, d] or "
            f"[b, t, heads, d / heads] where t or t - 1 is a grid with the proportions of the images {images.shape}. "
            "Choose the keys or the output of a block."
        )
    return places


def moved_tokens(network: Network, images: Any, site: str, *, patch: int) -> Any:
    """Reads the tokens of patches at twice as many places a side: LOST and TokenCut see the shape of small objects.

    The images are shown moved by a quarter of a patch up or down, left or right, their edges repeated, and the four
    grids are interleaved, so that every place is in the middle of the patch that it was read from.

    Args:
      network: a vision transformer.
      images: float [b, h, w, c].
      site: a tag, as in ``tokens``.
      patch: the side of its patches in pixels, a multiple of 4.

    Returns:
      The features, [b, 2 h / patch, 2 w / patch, d].

    Raises:
      ValueError: as ``tokens``; a patch that cannot be quartered.
      TypeError: images that are not floating-point.

    Source: compare Amir et al. (2021), arXiv 2112.05814, who change the stride of the patches, and with it the
    positions.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> pooled = lambda p, s, x: checkpoint_name(p * x.reshape(-1, 2, 4, 2, 4, 1).mean((2, 4)), "map").sum((1, 2))
    >>> moved_tokens(Network(pooled, jnp.ones(())), jnp.ones((1, 8, 8, 1)), "map", patch=4).shape
    (1, 4, 4, 1)
    """
    if not check.is_whole(patch) or patch < 4 or patch % 4:
        raise ValueError(f"patch: expected a multiple of 4, the side of a patch in pixels, but got {patch!r}.")
    images, _ = ready(network, images, None)
    quarter, (height, width) = patch // 4, images.shape[1:3]
    padded = np.pad(images, ((0, 0), (quarter, quarter), (quarter, quarter), (0, 0)), mode="edge")
    starts = itertools.product((0, 2 * quarter), repeat=2)
    moved = [padded[:, top : top + height, left : left + width] for top, left in starts]
    grids = jnp.stack([tokens(network, one, site) for one in moved])
    return rearrange(grids, "(r c) b h w d -> b (h r) (w c) d", r=2)


def standardised(features: Any, *, eps: float = 1e-5) -> Any:
    """Standardises the whole map of each image: ``(x - mean) / sqrt(variance + eps)``, over h, w and d jointly.

    LOST asks which places have features of opposite direction; after a ReLU there are none.  The study of pruning does
    this to the maps of convolutional networks.

    Args:
      features: [b, h, w, d].
      eps: added to the variance.

    Raises:
      ValueError: features that are not [b, h, w, d] or not finite.
      TypeError: features that are not floating-point.

    Source: Cassano et al. (2025), arXiv 2507.01722.

    >>> standardised(jnp.array([[[[0.0, 4.0], [4.0, 0.0]]]]), eps=0.0).tolist()
    [[[[-1.0, 1.0], [1.0, -1.0]]]]
    """
    features = checked(features)
    mean = jnp.mean(features, axis=(1, 2, 3), keepdims=True)
    variance = jnp.var(features, axis=(1, 2, 3), keepdims=True)
    return (features - mean) / jnp.sqrt(variance + eps)


def checked(features: Any) -> Any:
    """Checks features, and returns them as an array of float32 or float64."""
    features = jnp.asarray(features)
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(
            f"features: expected [b, h, w, d], none of them 0, but got the shape {features.shape}. "
            "discovery.tokens(network, images, site) lays a site out like that."
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise TypeError(f"features: expected floating-point features, but got {features.dtype}.")
    check.finite("features", features, "Does the network still work, or has its pruning gone too far?")
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))
