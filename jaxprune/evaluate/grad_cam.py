"""Grad-CAM: which places of a feature map speak for a class."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune import sites
from jaxprune.evaluate import _maps
from jaxprune.evaluate._requests import Attribution, asked, image_gradient, logit
from jaxprune.network import Network


def grad_cam(site: str) -> Attribution:
    """Makes Grad-CAM at a place inside the network: ``max(sum_c alpha_c A_c, 0)``, alpha_c the mean gradient of A_c.

    With A the value at the site and f the target's logit, ``alpha_c = mean over places of df / dA_c``.  The map is
    enlarged to the size of the images linearly, with pixels as squares (as OpenCV and PyTorch's
    ``align_corners=False``).  A network whose logits do not change with the images at all has a map of zeros.

    Args:
      site: a tag of the network ("stage3/block2"), or the name of a leaf of its parameters (the output of the operation
        through which it enters: "stage1_block0/conv1/kernel" is that convolution's output, before a bias; the name of
        the bias is the sum).  The value is a map [b, h, w, d] or tokens [b, t, d]: those after a class token where
        t - 1 is a grid of the images' proportions, else all t.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, 1]``, 0 or more.

    Raises:
      ValueError: (by what is returned) no such site, a value that is no map; a gradient that is exactly zero for every
        image although the images matter: after the last block of a vision transformer only the class token is read,
        and the error names the nearest earlier place.

    Source: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra (2017), arXiv 1610.02391.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x, "features").mean(axis=(1, 2)) @ p, jnp.array([[4.0]]))
    >>> grad_cam("features")(net, jnp.array([[[[1.0], [-3.0]], [[0.0], [2.0]]]]))[..., 0].tolist()
    [[[1.0, 0.0], [0.0, 2.0]]]
    """

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        return cam(network, *asked(network, images, targets), site=site, enlarge=_maps.bilinear)

    return attribute


def cam(network: Network, images: Any, targets: Any, *, site: str, enlarge: Callable[..., Any]) -> Any:
    """Computes Grad-CAM [b, h, w, 1], enlarged, and refuses a site where the gradient is zero throughout."""
    relevance, dead = _cam(network, images, targets, site=site, enlarge=enlarge)
    if not isinstance(dead, Tracer) and bool(dead):
        _refuse(network, images, targets, site, enlarge)
    return relevance


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


def _refuse(network: Network, images: Any, targets: Any, site: str, enlarge: Callable[..., Any]) -> None:
    """Raises where the images matter to the outputs, but not through this place.

    Only here is anything more computed: where the gradient at the site is zero.
    """
    if not bool(jnp.any(image_gradient(network, images, targets))):
        return
    shapes = sites.before(network, images, site)
    usable = tuple(name for name, shape in shapes.items() if _maps.layout(shape, images.shape) is not None)
    alive = [name for name, there in zip(usable, _alive(network, images, targets, names=usable), strict=True) if there]
    remedy = (
        f"The nearest earlier place with a gradient is {alive[0]!r}."
        if alive
        else "No earlier tag of a usable shape has a gradient: name the kernel of an earlier layer."
    )
    raise ValueError(
        f"site: at {site!r} the gradient of the target is exactly zero for every image and every place, and Grad-CAM "
        "would be zero everywhere. Nothing that follows reads these places: after the last block of a vision "
        f"transformer, for one, only the class token is read. {remedy}"
    )


@partial(jax.jit, static_argnames="names")
def _alive(network: Network, images: Any, targets: Any, *, names: tuple[str, ...]) -> list[Any]:
    """Whether any gradient is not zero at each of these places, where Grad-CAM reads them."""
    _, gradients = sites.gradients_at(network, images, names, partial(_total, targets=targets))
    return [jnp.any(_maps.laid_out(gradient, images.shape)) for gradient in gradients]


def _total(outputs: Any, targets: Any) -> Any:
    return jnp.sum(logit(outputs, targets))
