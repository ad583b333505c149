"""Attribution: how much each pixel of an image speaks for a class, by a network's own gradients and attention.

Every method is configured first and then applied to any network: ``method(network, images, targets)`` gives the
relevance, [b, h, w, c] in input space or [b, h, w, 1] for Grad-CAM and attention.  What is explained is the logit of
the target class; without targets, of the class that the network decides for.  ``relevance`` measures whether it lies on
the object, ``perturbation`` whether it matters to the network.

Each method compiles one program for each ``network.apply`` and shape, and runs it on the whole batch: split large sets
into batches that fit.  Networks whose ``apply`` are equal (one model, many masks) share it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, draws, sites
from jaxprune.evaluate import _maps
from jaxprune.evaluate._requests import (
    Attribution,
    asked,
    colours,
    image_gradient,
    ready,
    settled,
)
from jaxprune.evaluate.attention import attention_rollout, last_attention
from jaxprune.evaluate.grad_cam import configured, grad_cam
from jaxprune.network import Network

__all__ = [
    "Attribution",
    "attention_rollout",
    "grad_cam",
    "gradient",
    "guided_backpropagation",
    "guided_grad_cam",
    "input_times_gradient",
    "integrated_gradients",
    "last_attention",
    "noise_tunnel",
    "smooth_grad",
]


def gradient() -> Attribution:
    """Makes plain saliency, with its sign: ``df(x) / dx`` of the target's logit f.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, c]``.

    Raises:
      ValueError: (by what is returned, here and in every method) images that are not [b, h, w, c] or not finite,
        outputs that are not [b, c], targets outside of the classes.
      TypeError: likewise, images that are not floating-point, targets that are not integers.

    Source: Simonyan, Vedaldi and Zisserman (2013), arXiv 1312.6034.

    >>> net = Network(lambda p, s, x: x.reshape(len(x), -1) @ p, jnp.array([[1.0, 0.0], [0.0, -2.0]]))
    >>> gradient()(net, jnp.ones((1, 1, 2, 1)), jnp.array([1])).ravel().tolist()
    [0.0, -2.0]
    """

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        return image_gradient(network, *asked(network, images, targets))

    return attribute


def input_times_gradient() -> Attribution:
    """Makes input times gradient: ``x df(x) / dx``, in first order what the pixel adds over black.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, c]``.

    Source: Shrikumar, Greenside, Shcherbina and Kundaje (2016), arXiv 1605.01713.

    >>> net = Network(lambda p, s, x: x.reshape(len(x), -1) @ p, jnp.array([[1.0, 0.0], [0.0, -2.0]]))
    >>> input_times_gradient()(net, jnp.full((1, 1, 2, 1), 0.5), jnp.array([1])).ravel().tolist()
    [0.0, -1.0]
    """

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        images, targets = asked(network, images, targets)
        return images * image_gradient(network, images, targets)

    return attribute


def guided_backpropagation() -> Attribution:
    """Makes guided backpropagation: the gradient, of which every ReLU lets back only what is positive.

    ``sites.guided`` says which ReLUs of a network are meant.  The result looks sharp, but depends little on the class
    and on the weights (Adebayo et al. 2018, arXiv 1810.03292): read it beside a random network's.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, c]``.

    Raises:
      ValueError: (by what is returned) a network without a ReLU between images and outputs.

    Source: Springenberg, Dosovitskiy, Brox and Riedmiller (2014), arXiv 1412.6806.

    >>> net = Network(lambda p, s, x: jax.nn.relu(x.reshape(len(x), -1)) @ p, jnp.array([[1.0], [-2.0]]))
    >>> guided_backpropagation()(net, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.0, 0.0]
    """

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        guided = sites.guided(network)
        return image_gradient(guided, *asked(network, *ready(guided, images, targets)))

    return attribute


def guided_grad_cam(site: str, *, dead: str = "error") -> Attribution:
    """Makes guided Grad-CAM: guided backpropagation times Grad-CAM at the site, enlarged to the nearest place.

    Args:
      site: as in ``grad_cam``.
      dead: as in ``grad_cam``.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, c]``.

    Raises:
      ValueError, TypeError: as ``grad_cam`` and ``guided_backpropagation``.

    Source: Selvaraju et al. (2017), arXiv 1610.02391.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(jax.nn.relu(x), "features").mean(axis=(1, 2)), {})
    >>> guided_grad_cam("features")(net, jnp.array([[[[1.0], [-3.0]], [[0.0], [2.0]]]])).ravel().tolist()
    [0.0625, 0.0, 0.0, 0.125]
    """
    cam = configured(site, dead, _maps.nearest)

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        guided = sites.guided(network)
        # The guided network first: one without a ReLU is refused before anything is compiled.
        images, targets = asked(network, *ready(guided, images, targets))
        return cam(network, images, targets) * image_gradient(guided, images, targets)

    return attribute


def integrated_gradients(*, steps: int = 50, baseline: Any = 0.0) -> Attribution:
    """Makes integrated gradients: ``(x - x0) integral_0^1 df(x0 + a (x - x0)) / dx da``.

    The integral is taken by Gauss-Legendre quadrature, as in Captum: exact where f is a polynomial of degree
    ``2 steps`` along the way.  The sum over an image approaches ``f(x) - f(x0)``.  The target is decided once, at the
    image itself: along the way another class may be ahead.  A loop on the host over one compiled gradient: the time of
    ``steps`` of them, and the memory of one.

    Args:
      steps: the number of gradients.
      baseline: x0: a number, a colour [c], an image [h, w, c] or images [b, h, w, c], in units of the images.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, c]``.

    Raises:
      ValueError: no step; (by what is returned) a baseline that does not fit the images.
      TypeError: (by what is returned) a baseline that is no number.

    Source: Sundararajan, Taly and Yan (2017), arXiv 1703.01365.

    >>> net = Network(lambda p, s, x: x.reshape(len(x), -1)[:, :1] * x.reshape(len(x), -1)[:, 1:], {})
    >>> integrated_gradients(steps=2)(net, jnp.array([[[[3.0], [5.0]]]])).ravel().round(4).tolist()
    [7.5, 7.5]
    """
    check.whole("steps", steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        images, targets = ready(network, images, targets)
        start = colours("baseline", baseline, images)
        targets = settled(network, images, targets)
        integral = jnp.zeros_like(images)
        for fraction, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
            slope = image_gradient(network, _between(start, images, np.asarray(fraction, images.dtype)), targets)
            integral = _plus(integral, np.asarray(weight, images.dtype), slope)
        return (images - start) * integral

    return attribute


def noise_tunnel(method: Attribution, *, samples: int, std: Any, key: jax.Array) -> Attribution:
    """Makes the mean of an attribution over noisy copies of the images: ``mean_s method(x + std noise_s)``.

    The noise is normal.  It is a function of the key, the sample and the position in the batch: the n-th image of every
    batch meets the same noise, whatever the number of images, so that networks are compared under equal noise.  The
    target is what the network decides for on the clean image.

    Args:
      method: any attribution.
      samples: how many copies.
      std: standard deviation of the noise, in units of the images; a number, or one for each channel [c].
      key: of the noise.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance``, of the shape that the method gives.

    Raises:
      ValueError: no sample, a std that is negative or no number; (by what is returned) one that does not fit the
        images.
      TypeError: a key that is none.

    Source: Smilkov, Thorat, Kim, Viégas and Wattenberg (2017), arXiv 1706.03825.

    >>> net = Network(lambda p, s, x: x.reshape(len(x), -1) @ p, jnp.array([[2.0], [-3.0]]))
    >>> noisy = noise_tunnel(gradient(), samples=2, std=0.5, key=jax.random.key(0))
    >>> noisy(net, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [2.0, -3.0]
    """
    check.whole("samples", samples)
    check.key("key", key)
    if not check.are_numbers(std) or not np.all(np.asarray(std) >= 0):
        raise ValueError(f"std: expected 0 or more, in units of the images, but got {std!r}.")

    def attribute(network: Network, images: Any, targets: Any = None) -> Any:
        images, targets = ready(network, images, targets)
        spread = colours("std", std, images)
        targets = settled(network, images, targets)
        summed: Any = 0
        for sample in range(samples):
            summed = summed + method(network, _noisy(images, spread, key, np.int32(sample)), targets)
        return summed / samples

    return attribute


def smooth_grad(*, samples: int, std: Any, key: jax.Array) -> Attribution:
    """Makes SmoothGrad: the mean gradient over noisy copies of the images, ``noise_tunnel(gradient(), ...)``.

    Args:
      samples: how many copies.
      std: standard deviation of the noise, in units of the images; a number, or one for each channel [c].
      key: of the noise.

    Returns:
      ``(network, images [b, h, w, c], targets) -> relevance [b, h, w, c]``.

    Source: Smilkov, Thorat, Kim, Viégas and Wattenberg (2017), arXiv 1706.03825.

    >>> net = Network(lambda p, s, x: x.reshape(len(x), -1) @ p, jnp.array([[2.0], [-3.0]]))
    >>> smooth_grad(samples=2, std=0.1, key=jax.random.key(0))(net, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [2.0, -3.0]
    """
    return noise_tunnel(gradient(), samples=samples, std=std, key=key)


@jax.jit
def _between(start: Any, images: Any, fraction: Any) -> jax.Array:
    return start + fraction * (images - start)


@jax.jit
def _plus(integral: Any, weight: Any, slope: Any) -> jax.Array:
    return integral + weight * slope


@jax.jit
def _noisy(images: Any, std: Any, key: jax.Array, sample: Any) -> jax.Array:
    drawn = jax.random.fold_in(key, sample)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(drawn, jnp.arange(len(images)))
    noise = jax.vmap(lambda key: draws.shaped(jax.random.normal, key, images.shape[1:], images.dtype))(keys)
    return images + std * noise
