"""Where the class token of a vision transformer looks: the attention of its last block, or of all blocks together.

Neither depends on a class, nor on what the values that are attended to say for it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check, sites
from jaxprune.evaluate import _maps
from jaxprune.evaluate._requests import Attribution, ready
from jaxprune.network import Network


def last_attention(site: str | None = None) -> Attribution:
    """Makes the attention of the class token in the last block: the mean over heads of ``A[class token, patches]``.

    The map is enlarged to the size of the images linearly, as in ``grad_cam``.  Where units are only switched off,
    heads that are off still count: their probabilities exist.  Targets are ignored.

    Args:
      site: the tag of an attention [b, heads, t, t], softmax over the last axis.  None: the last tag that ends in
        "/attention".

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, 1]``, 0 or more.

    Raises:
      ValueError: (by what is returned) no such tag, attention inside windows, or no class token before a grid of
        patches with the images' proportions.

    Source: Caron et al. (2021), arXiv 2104.14294.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> weights = jnp.broadcast_to(jnp.array([0.5, 0.25, 0.125, 0.125, 0.0]), (1, 2, 5, 5))
    >>> net = Network(lambda p, s, x: x.mean(axis=(1, 2)) * checkpoint_name(p, "block0/attention").sum(), weights)
    >>> last_attention()(net, jnp.ones((1, 2, 2, 1)))[..., 0].tolist()
    [[[0.25, 0.125], [0.125, 0.0]]]
    """

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        images, _ = ready(network, images, targets)
        return _last(network, images, site=site)

    return attribute


def attention_rollout() -> Attribution:
    """Makes attention rollout: attention followed through all blocks, ``prod_l (A_l + I) / 2``, row of the class token.

    A_l is the mean over heads in block l, and I stands for the residual branch; the last block is the leftmost factor.
    A block whose attention was removed passes everything on.  The map is enlarged linearly; targets are ignored.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, 1]``, 0 or more.

    Raises:
      ValueError: (by what is returned) a network that tags no ``*/attention``, attention inside windows, or no class
        token before a grid of patches with the images' proportions.

    Source: Abnar and Zuidema (2020), arXiv 2005.00928.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> weights = jnp.broadcast_to(jnp.array([0.5, 0.25, 0.125, 0.125, 0.0]), (1, 2, 5, 5))
    >>> net = Network(lambda p, s, x: x.mean(axis=(1, 2)) * checkpoint_name(p, "block0/attention").sum(), weights)
    >>> attention_rollout()(net, jnp.ones((1, 2, 2, 1)))[..., 0].tolist()
    [[[0.125, 0.0625], [0.0625, 0.0]]]
    """

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        images, _ = ready(network, images, targets)
        return _rollout(network, images)

    return attribute


@partial(jax.jit, static_argnames="site")
@jax.default_matmul_precision("highest")
def _last(network: Network, images: Any, *, site: str | None) -> Any:
    names = [_attentions(network, images)[-1]] if site is None else [site]
    if site is not None:
        check.choice("site", site, sites.tags(network, images))
    (attention,) = _read(network, images, names)
    return _patches(attention[:, 0], images)


@jax.jit
@jax.default_matmul_precision("highest")
def _rollout(network: Network, images: Any) -> Any:
    blocks = _read(network, images, _attentions(network, images))
    # The row of the class token alone, from the last block down: vectors times matrices.
    row = jnp.zeros_like(blocks[-1][:, 0]).at[:, 0].set(1)
    for attention in reversed(blocks):
        row = (jnp.einsum("bk,bkt->bt", row, attention) + row) / 2
    return _patches(row, images)


def _attentions(network: Network, images: Any) -> list[str]:
    tags = sites.tags(network, images)
    found = [tag for tag in tags if tag.endswith(_maps.PROBABILITIES)]
    if not found:
        raise ValueError(
            "network: expected a vision transformer that tags its attention as '*/attention', but it tags: "
            f"{', '.join(tags) or 'nothing'}. For networks without attention use Grad-CAM or a gradient method."
        )
    return found


def _read(network: Network, images: Any, names: list[str]) -> list[Any]:
    """The attention of these sites, mean over heads, [b, t, t]."""
    read = sites.read(network, images, names)
    for name, value in zip(names, read, strict=True):
        tokens = read[-1].shape[-1]
        whole = value.ndim == 4 and value.shape[0] == len(images) and value.shape[2:] == (tokens, tokens)
        if not whole or _maps.grid(tokens - 1, images.shape) is None:
            raise ValueError(
                f"network: expected attention [b, heads, t, t] with t = 1 + patches, a class token and a grid with the "
                f"proportions of the images {images.shape}, but {name!r} is {value.shape}. Attention inside windows "
                "(Swin), or without a class token, can't be followed: use Grad-CAM or a gradient method."
            )
    return [jnp.mean(value, axis=1).astype(images.dtype) for value in read]


def _patches(row: Any, images: Any) -> Any:
    """The patches' part of the class token's row [b, t], laid out and enlarged: [b, h, w, 1]."""
    height, width = _maps.grid(row.shape[1] - 1, images.shape) or (0, 0)
    return _maps.bilinear(row[:, 1:].reshape(len(row), height, width), images.shape[1:3])[..., None]
