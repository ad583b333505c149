"""Grad-CAM: which places of a feature map speak for a class."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune import check, sites
from jaxprune.evaluate import _maps
from jaxprune.evaluate._requests import Attribution, asked, image_gradient, logit
from jaxprune.network import Network

DEAD = ("error", "zeros")


def grad_cam(site: str, *, dead: str = "error") -> Attribution:
    """Makes Grad-CAM at a place inside the network: ``max(sum_c alpha_c A_c, 0)``, alpha_c the mean gradient of A_c.

    With A the value at the site and f the target's logit, ``alpha_c = mean over places of df / dA_c``.  The map is
    enlarged to the size of the images linearly, with pixels as squares (as OpenCV and PyTorch's
    ``align_corners=False``).  A network whose logits do not change with the images at all has a map of zeros.

    Args:
      site: a tag of the network ("stage3/block2"), or the name of a leaf of its parameters (the output of the operation
        through which it enters: "stage1_block0/conv1/kernel" is that convolution's output, before a bias; the name of
        the bias is the sum).  The value is a map [b, h, w, d] or tokens [b, t, d]: those after a class token where
        t - 1 is a grid of the images' proportions, else all t.
      dead: what is done where the gradient at the site is exactly zero for every image although the images matter:
        "error", as the site is then most likely a wrong one, or "zeros", maps of zeros, which ``relevance.flat`` flags
        and counts: for a study over pruned networks, some of which may have lost all that led through the site.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, 1]``, 0 or more.

    Raises:
      ValueError: a site that ends in "/attention" (probabilities), "/keys" or "/heads" (sorted by heads), an unknown
        ``dead``; (by what is returned) no such site, a value that is no map; under "error", a gradient that is zero as
        above: after the last block of a vision transformer only the class token is read, and the error names the
        nearest earlier place.
      TypeError: a site that is no name.

    Source: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra (2017), arXiv 1610.02391.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x, "features").mean(axis=(1, 2)) @ p, jnp.array([[4.0]]))
    >>> grad_cam("features")(net, jnp.array([[[[1.0], [-3.0]], [[0.0], [2.0]]]]))[..., 0].tolist()
    [[[1.0, 0.0], [0.0, 2.0]]]
    """
    cam = configured(site, dead, _maps.bilinear)

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        return cam(network, *asked(network, images, targets))

    return attribute


def configured(site: Any, dead: str, enlarge: Callable[..., Any]) -> Callable[[Network, Any, Any], Any]:
    """Makes Grad-CAM [b, h, w, 1] of checked images and targets, with this enlargement.

    Raises:
      ValueError, TypeError: as ``grad_cam``.
    """
    if isinstance(site, Network):
        raise TypeError(
            "site: expected the name of a place, but got a network. Configure first, then apply: "
            "grad_cam(site)(network, images)."
        )
    if not isinstance(site, str):
        raise TypeError(
            f"site: expected the name of one place, such as 'stage3/block2', but got {site!r}. jp.sites.tags lists "
            "what a network tags."
        )
    check.choice("dead", dead, DEAD)
    if not _usable(site):
        raise ValueError(
            f"site: {site!r} holds the probabilities of an attention, or values sorted by heads, and Grad-CAM expects "
            "a map [b, h, w, d] or tokens [b, t, d]. Choose the output of a block ('block3', 'stage3/block1'), of one "
            "of its branches, or of a convolution; jp.sites.tags lists what a network tags."
        )

    def cam(network: Network, images: Any, targets: Any) -> Any:
        relevance, is_dead = _cam(network, images, targets, site=site, enlarge=enlarge)
        # Under a transformation it can't be known.
        if dead == "error" and not isinstance(is_dead, Tracer) and bool(is_dead):
            _refuse(network, images, targets, site)
        return relevance

    return cam


def _usable(site: str) -> bool:
    """Whether a name may be that of a map or of tokens; of some shapes, what it leaves out could be read as a map."""
    return not site.endswith((_maps.PROBABILITIES, *_maps.BY_HEADS))


@partial(jax.jit, static_argnames=("site", "enlarge"))
@jax.default_matmul_precision("highest")
def _cam(network: Network, images: Any, targets: Any, *, site: str, enlarge: Callable[..., Any]) -> tuple[Any, Any]:
    """The enlarged map, and whether every gradient is zero."""
    (value,), (gradient,) = sites.gradients_at(network, images, [site], partial(_total, targets=targets))
    maps = _maps.laid_out(value, images.shape)
    if maps is None:
        raise ValueError(
            f"site: {site!r} is {value.shape}, but Grad-CAM expects a map [b, h, w, d] or tokens [b, t, d], where t or "
            f"t - 1 is a grid with the proportions of the images {images.shape}. Choose the output of a block or of a "
            "convolution; jp.sites.tags lists what the network tags."
        )
    gradient = _maps.laid_out(gradient, images.shape)
    weights = jnp.mean(gradient, axis=(1, 2), keepdims=True)
    coarse = jax.nn.relu(jnp.sum(weights * maps, axis=-1)).astype(images.dtype)
    return enlarge(coarse, images.shape[1:3])[..., None], ~jnp.any(gradient)


def _refuse(network: Network, images: Any, targets: Any, site: str) -> None:
    """Raises where the images matter to the outputs, but not through this place.

    Only here is anything more computed: where the gradient at the site is zero.
    """
    if not bool(jnp.any(image_gradient(network, images, targets))):
        return
    shapes = sites.before(network, images, site)
    usable = tuple(name for name, shape in shapes.items() if _usable(name) and _maps.layout(shape, images.shape))
    alive = [name for name, there in zip(usable, _alive(network, images, targets, names=usable), strict=True) if there]
    remedy = (
        f"The nearest earlier place with a gradient is {alive[0]!r}."
        if alive
        else "No earlier tag of a usable shape has a gradient: name the kernel of an earlier layer."
    )
    raise ValueError(
        f"site: at {site!r} the gradient of the target is exactly zero for every image and every place, and Grad-CAM "
        "would be zero everywhere. Nothing that follows reads these places: after the last block of a vision "
        f"transformer, for one, only the class token is read. {remedy} For maps of zeros, which relevance.flat counts, "
        "pass dead='zeros'."
    )


@partial(jax.jit, static_argnames="names")
def _alive(network: Network, images: Any, targets: Any, *, names: tuple[str, ...]) -> list[Any]:
    """Whether any gradient is not zero at each of these places, where Grad-CAM reads them."""
    _, gradients = sites.gradients_at(network, images, names, partial(_total, targets=targets))
    return [jnp.any(_maps.laid_out(gradient, images.shape)) for gradient in gradients]


def _total(outputs: Any, targets: Any) -> Any:
    return jnp.sum(logit(outputs, targets))
