"""Residual networks, for small images and for ImageNet.

Both kinds are one module: a stem, stages of residual blocks, the mean over positions, a linear head.  From the second
stage on, the first block of a stage halves height and width, and every stage is twice as wide as the one before.

The networks tag what happens inside them with ``jax.ad_checkpoint.checkpoint_name``, which changes no number:

    stage1/block0          the output of a block               [b, h, w, c]
    stage1/block0/units1   its filters after the first ReLU    [b, h, w, c]
    stage1/block0/units2   after the second (bottlenecks)      [b, h, w, c]
    features               the input of the head               [b, d]
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check

# The variance 2 / fan_out, with which gradients keep their size through ReLU (He et al. 2015, arXiv 1502.01852).
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Depth: the number of blocks in every stage.
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet_cifar(depth: int = 20, classes: int = 10, width: int = 16) -> nn.Module:
    """Makes a ResNet for small images: three stages of n basic blocks, where depth = 6 n + 2.

    The two blocks that halve the image have a 1x1 convolution with BatchNorm as their shortcut (the paper's option B);
    all others have the identity.

    Args:
      depth: 20, 32, 44, 56, 110, or any other 6 n + 2.  It counts the layers without the shortcuts.
      classes: the number of outputs.
      width: the number of filters in the first stage; the others have two and four times as many.

    Returns:
      A module, ``module(images [b, h, w, c], train=False) -> outputs [b, classes]``.  Any image size and any number of
      channels will do.

    Raises:
      ValueError: a depth that is not 6 n + 2, or a size that is not positive.

    Source: He et al. (2016), arXiv 1512.03385, section 4.2.

    >>> import jax
    >>> variables = jax.eval_shape(resnet_cifar().init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    272474
    """
    if depth < 8 or depth % 6 != 2:
        lower = max(8, (depth - 2) // 6 * 6 + 2)
        raise ValueError(
            f"depth: expected 6 n + 2 (20, 32, 44, 56, 110, ...), n blocks in each of three stages, but got {depth!r}. "
            f"Take {lower} or {lower + 6}, or models.resnet for the ImageNet depths."
        )
    check.positive("classes", classes)
    check.positive("width", width)
    return ResNet(blocks=((depth - 2) // 6,) * 3, classes=classes, width=width)


def resnet(depth: int = 50, classes: int = 1000, width: int = 64) -> nn.Module:
    """Makes a ResNet for ImageNet, equal to torchvision's: four stages, after a stem that quarters height and width.

    Depths 18 and 34 have basic blocks.  50 and 101 have bottlenecks that stride in the 3x3 convolution ("v1.5").

    Args:
      depth: 18, 34, 50 or 101.
      classes: the number of outputs.
      width: the number of filters in the stem; the i-th stage has blocks of ``width 2^(i-1)`` filters.

    Returns:
      A module, ``module(images [b, h, w, c], train=False) -> outputs [b, classes]``.

    Raises:
      ValueError: another depth, or a size that is not positive.

    Source: He et al. (2016), arXiv 1512.03385, table 1.

    >>> import jax
    >>> variables = jax.eval_shape(resnet(18).init, jax.random.key(0), jnp.ones((1, 224, 224, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    11689512
    """
    known = BASIC | BOTTLENECK
    if depth not in known:
        raise ValueError(
            f"depth: expected one of {', '.join(map(str, known))}, but got {depth!r}. For depth 6 n + 2, made for "
            "small images, call models.resnet_cifar."
        )
    check.positive("classes", classes)
    check.positive("width", width)
    return ResNet(blocks=known[depth], classes=classes, width=width, bottleneck=depth in BOTTLENECK, large_images=True)


class ResNet(nn.Module):
    """Stem, stages, mean, head: ``images [b, h, w, c] -> outputs [b, classes]``.

    Attributes:
      blocks: the number of blocks in every stage.
      classes: the number of outputs.
      width: the number of filters in the stem and in the blocks of the first stage.
      bottleneck: whether blocks are bottlenecks.
      large_images: whether the stem quarters height and width.
    """

    blocks: tuple[int, ...]
    classes: int
    width: int
    bottleneck: bool = False
    large_images: bool = False

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train=True`` normalises by the batch, and wants ``mutable=["batch_stats"]``."""
        if jnp.ndim(images) != 4:
            raise ValueError(
                f"images: expected [b, h, w, c], but got the shape {jnp.shape(images)}. A single image needs a "
                "batch axis: images[None]."
            )
        block = Bottleneck if self.bottleneck else Basic
        x = Stem(self.width, self.large_images, name="stem")(images, train)
        for stage, blocks in enumerate(self.blocks):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                tag = f"stage{stage + 1}/block{index}"
                x = block(self.width * 2**stage, stride, tag, name=tag.replace("/", "_"))(x, train)
        features = checkpoint_name(jnp.mean(x, axis=(1, 2)), "features")
        return nn.Dense(self.classes, name="head")(features)


class Stem(nn.Module):
    """The first convolution: 3x3, or for large images 7x7 with stride 2, then a max-pool with stride 2."""

    filters: int
    large_images: bool

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h, w, filters]``, or to a quarter of the height and width."""
        size, stride = (7, 2) if self.large_images else (3, 1)
        x = _convolution(self.filters, size, stride, "conv")(x)
        x = nn.relu(_norm(train, "norm")(x))
        if self.large_images:
            # Pads with -inf.  Flax's annotation of the padding knows strings only.
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # type: ignore[arg-type]
        return x


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``relu(shortcut(x) + norm2(conv2(relu(norm1(conv1(x))))))``."""

    filters: int
    stride: int
    tag: str

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``, rounded up."""
        y = _convolution(self.filters, 3, self.stride, "conv1")(x)
        y = nn.relu(_norm(train, "norm1")(y))
        y = checkpoint_name(y, f"{self.tag}/units1")
        y = _convolution(self.filters, 3, 1, "conv2")(y)
        y = _norm(train, "norm2")(y)
        x = _shortcut(x, self.filters, self.stride, train)
        return checkpoint_name(nn.relu(x + y), self.tag)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last one, like the shortcut, has four times the filters."""

    filters: int
    stride: int
    tag: str

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, 4 filters]``, rounded up."""
        y = _convolution(self.filters, 1, 1, "conv1")(x)
        y = nn.relu(_norm(train, "norm1")(y))
        y = checkpoint_name(y, f"{self.tag}/units1")
        y = _convolution(self.filters, 3, self.stride, "conv2")(y)
        y = nn.relu(_norm(train, "norm2")(y))
        y = checkpoint_name(y, f"{self.tag}/units2")
        y = _convolution(4 * self.filters, 1, 1, "conv3")(y)
        y = _norm(train, "norm3")(y)
        x = _shortcut(x, 4 * self.filters, self.stride, train)
        return checkpoint_name(nn.relu(x + y), self.tag)


def _shortcut(x: Any, filters: int, stride: int, train: bool) -> Any:
    """Returns x where the block keeps its shape, and else projects it to the new one."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    x = _convolution(filters, 1, stride, "projection")(x)
    return _norm(train, "projection_norm")(x)


def _convolution(filters: int, size: int, stride: int, name: str) -> nn.Conv:
    # Explicit padding, as in PyTorch.  At stride 2, "SAME" pads an even image less above and on the left than below and
    # on the right, which moves every filter by a pixel: converted weights would be wrong in silence.
    edge = (size // 2, size // 2)
    return nn.Conv(
        filters, (size, size), strides=stride, padding=(edge, edge), use_bias=False, kernel_init=HE_NORMAL, name=name
    )


def _norm(train: bool, name: str) -> nn.BatchNorm:
    # Flax's momentum is the share of the old value: 0.9 here is PyTorch's 0.1.
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
