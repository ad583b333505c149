"""Residual networks, for small images and for ImageNet.

Both kinds are one module: a stem, stages of residual blocks, the mean over positions, a linear head.  From the second
stage on, the first block of a stage halves height and width, and every stage is twice as wide as the one before.

The module is its own specification (``jaxprune.groups``): a few numbers, and a line for every block that says how many
filters it has inside.  Blocks keep their names when others are removed.

The networks tag what happens inside them with ``jax.ad_checkpoint.checkpoint_name``, which changes no number:

    stage1/block0          the output of a block               [b, h, w, c]
    stage1/block0/units1   its filters after the first ReLU    [b, h, w, c]
    stage1/block0/units2   after the second (bottlenecks)      [b, h, w, c]
    stage1/block0/branch   what is added to the shortcut       [b, h, w, c]
    features               the input of the head               [b, d]
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check
from jaxprune.groups import Gates, Group
from jaxprune.models.initial import LECUN_NORMAL
from jaxprune.models.resnet_blocks import (
    Basic,
    BlockShape,
    Bottleneck,
    Layers,
    Stem,
    block_groups,
    blocks_without,
    full_blocks,
    read_blocks,
    written_blocks,
)
from jaxprune.network import Network

# Depth: the number of blocks in every stage.
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet_cifar(
    depth: int = 20, classes: int = 10, width: int = 16, *, keras: bool = False, stem_stride: int = 1
) -> "ResNet":
    """Makes a ResNet for small images: three stages of n basic blocks, where depth = 6 n + 2.

    The two blocks that halve the image have a 1x1 convolution with BatchNorm as their shortcut (the paper's option B);
    all others have the identity.

    Args:
      depth: 20, 32, 44, 56, 110, or any other 6 n + 2.  It counts the layers without the shortcuts.
      classes: the number of outputs.
      width: the number of filters in the first stage; the others have two and four times as many.
      keras: whether to build the variant of Keras's examples, which arXiv 2506.04513 prunes: convolutions have biases,
        the projections have no BatchNorm, whose epsilon is 1e-3, and strides pad as TensorFlow does.
      stem_stride: the stride of the first convolution.  2 halves height and width from the start, and quarters the
        operations; 1 is the paper's.

    Returns:
      A module, ``module(images [b, h, w, c], train=False) -> outputs [b, classes]``.  Any image size and any number of
      channels will do.

    Raises:
      ValueError: a depth that is not 6 n + 2, or a number that is not whole and positive.

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
    check.whole("classes", classes)
    check.whole("width", width)
    check.whole("stem_stride", stem_stride)
    return ResNet(full_blocks(((depth - 2) // 6,) * 3, width), classes, width, keras=keras, stem_stride=stem_stride)


def resnet(depth: int = 50, classes: int = 1000, width: int = 64) -> "ResNet":
    """Makes a ResNet for ImageNet, equal to torchvision's: four stages, after a stem that quarters height and width.

    Depths 18 and 34 have basic blocks.  50 and 101 have bottlenecks that stride in the 3x3 convolution ("v1.5").

    Args:
      depth: 18, 34, 50 or 101.
      classes: the number of outputs; 0 leaves out the head, and the outputs are the features.
      width: the number of filters in the stem; the i-th stage has blocks of ``width 2^(i-1)`` filters.

    Returns:
      A module, ``module(images [b, h, w, c], train=False) -> outputs [b, classes]``.

    Raises:
      ValueError: another depth, or a number that is not whole and positive.

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
    check.whole("classes", classes, least=0)
    check.whole("width", width)
    bottleneck = depth in BOTTLENECK
    return ResNet(full_blocks(known[depth], width, bottleneck), classes, width, bottleneck, large_images=True)


class ResNet(nn.Module):
    """Stem, stages, mean, head: ``images [b, h, w, c] -> outputs [b, classes]``.

    Attributes:
      blocks: the residual blocks, in order.  The first of every stage is always there.
      classes: the number of outputs; 0: no head, the outputs are the features.
      width: the number of filters in the stem and in the first stage.
      bottleneck: whether blocks are bottlenecks.
      large_images: whether the stem quarters height and width.
      keras: whether to build the variant of Keras's examples, see ``resnet_cifar``.
      stem_stride: the stride of the first convolution; not of that for large images, which is 2.
    """

    blocks: tuple[BlockShape, ...]
    classes: int
    width: int
    bottleneck: bool = False
    large_images: bool = False
    keras: bool = False
    stem_stride: int = 1

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train=True`` normalises by the batch, and wants ``mutable=["batch_stats"]``."""
        if jnp.ndim(images) != 4:
            raise ValueError(
                f"images: expected [b, h, w, c], but got the shape {jnp.shape(images)}. A single image needs a "
                "batch axis: images[None]."
            )
        check.floating_images(images)
        layers = Layers(train, self.keras)
        x = Stem(self.width, self.large_images, layers, self.stem_stride, name="stem")(images)
        for shape in self.blocks:
            stride = 2 if shape.stage > 1 and shape.number == 0 else 1
            filters = self.width * 2 ** (shape.stage - 1) * (4 if self.bottleneck else 1)
            block = Bottleneck if self.bottleneck else Basic
            x = block(filters, shape.inner, stride, shape.tag, layers, name=shape.name)(x)
        features = checkpoint_name(jnp.mean(x, axis=(1, 2)), "features")
        return nn.Dense(self.classes, kernel_init=LECUN_NORMAL, name="head")(features) if self.classes else features

    @nn.nowrap
    def projects(self, shape: BlockShape) -> bool:
        """Whether the shortcut of a block is a projection, since its input has another shape than its output."""
        return shape.number == 0 and (shape.stage > 1 or self.bottleneck)

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of blocks in every stage."""
        stages = [shape.stage for shape in self.blocks]
        return tuple(stages.count(stage) for stage in range(1, max(stages) + 1))

    @nn.nowrap
    def groups(self) -> tuple[Group, ...]:
        """Lists the inner filters of every block, and the blocks that can go: all but the first of each stage.

        One of those that can go stays in every stage, as in arXiv 2506.04513, so that a stage has two blocks at least.
        """
        return block_groups(self.blocks, biases=self.keras)

    @nn.nowrap
    def without(self, gates: Gates) -> "ResNet":
        """Returns the shape without the filters and blocks whose gates are False."""
        return self.clone(blocks=blocks_without(self.blocks, gates))

    @nn.nowrap
    def network(self, params: Any, state: Any) -> Network:
        """Makes the network of this shape."""
        return Network.from_linen(self, {"params": params, **state}, train={"train": True})

    @nn.nowrap
    def describe(self) -> dict[str, Any]:
        """Writes the shape as values that JSON has: ``{"family": "resnet", ..., "blocks": {name: inner widths}}``."""
        return {
            "family": "resnet",
            "classes": self.classes,
            "width": self.width,
            "bottleneck": self.bottleneck,
            "large_images": self.large_images,
            "keras": self.keras,
            # Not written where it is 1: shapes are compared and hashed as written, also those from before it was there.
            **({} if self.stem_stride == 1 else {"stem_stride": self.stem_stride}),
            "blocks": written_blocks(self.blocks),
        }

    @staticmethod
    def described(values: Mapping[str, Any]) -> "ResNet":
        """Reads what ``describe`` wrote."""
        names = ("classes", "width", "bottleneck", "large_images", "keras")
        options = {name: values[name] for name in names}
        return ResNet(read_blocks(values["blocks"]), **options, stem_stride=values.get("stem_stride", 1))
