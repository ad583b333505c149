"""The residual networks of CLIP: their stem, strides and pooling differ from everybody else's.

Three 3x3 convolutions and an average pool are the stem.  Where a block halves height and width, an average pool does
it, before the last convolution of its branch and before that of its shortcut; no convolution but the first has a
stride.  One attention pools the last map: the query is the mean over its positions, keys and values are the mean and
the positions, all with learned positions added.

The module is its own specification (``jaxprune.groups``), with the lines for its blocks of ``jaxprune.models.resnet``
and the same tags in them; the heads of the pool stay.  Further tags are

    pool/attention   the probabilities, softmax over the last axis     [b, heads, 1, t]
    pool/heads       the values that each head has mixed               [b, heads, d / heads]
    features         the same, one after the other: input of the head  [b, d]

Token 0 is the mean; the positions follow, row by row.  The head is CLIP's last projection, and the outputs are the
embedding that is compared with that of a text.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check
from jaxprune.groups import Gates, Group
from jaxprune.models.initial import LECUN_NORMAL, in_a_line
from jaxprune.models.positions import cubic_antialiased
from jaxprune.models.resnet_blocks import (
    BlockShape,
    Layers,
    block_groups,
    blocks_without,
    full_blocks,
    read_blocks,
    written_blocks,
)
from jaxprune.network import Network

# From a pixel of the last map to the next, in pixels of the image.
STRIDE = 32
# The dimensions of a head of the attention that pools.
HEAD_WIDTH = 64


def clip_resnet(
    image: int = 224, classes: int = 1024, width: int = 64, depths: Sequence[int] = (3, 4, 6, 3)
) -> "ClipResNet":
    """Makes a residual network of CLIP, equal to OpenAI's of the same sizes: RN50, unless told otherwise.

    Args:
      image: height and width of the images, in pixels; a multiple of 32.
      classes: the number of outputs, which are an embedding; 0 leaves out the last projection.
      width: the filters of the first stage; even.  Features are 32 times as many, in heads of 64.
      depths: the number of blocks in every one of four stages.

    Returns:
      A module, ``module(images [b, image, image, c], train=False) -> outputs [b, classes]``.

    Raises:
      ValueError: an image that is no multiple of 32, an odd width, depths of other than four stages, or a number that
        is not whole and positive.

    Source: Radford et al. (2021), arXiv 2103.00020, section 2.4.

    >>> import jax
    >>> variables = jax.eval_shape(clip_resnet().init, jax.random.key(0), jnp.ones((1, 224, 224, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    38316896
    """
    check.whole("classes", classes, least=0)
    _demand_multiple(image)
    for name, number in {"width": width, **{f"depths[{place}]": depth for place, depth in enumerate(depths)}}.items():
        check.whole(name, number)
    if width % 2:
        raise ValueError(f"width: expected an even number, but got {width}. Take {width + 1}.")
    if len(depths) != 4:
        raise ValueError(f"depths: expected four stages, but got {tuple(depths)}. RN50 has (3, 4, 6, 3).")
    return ClipResNet(full_blocks(depths, width, bottleneck=True), classes, width, image)


def resized(module: "ClipResNet", params: Any, image: int) -> tuple["ClipResNet", Any]:
    """Makes a residual network of CLIP for images of another size, by interpolation of its pool's positions.

    CLIP itself has no method; this is the one of timm for vision transformers, see ``jaxprune.models.resized``.

    Args:
      module: the network's module.
      params: its parameters.
      image: height and width of the images, in pixels; a multiple of 32.

    Returns:
      (module, params) for the new size; everything but the positions is shared.  The mean's position is kept.

    Raises:
      ValueError: a size that is not whole, or no multiple of 32.

    >>> import jax
    >>> small = clip_resnet(64, 5, 4, (1, 1, 1, 1))
    >>> shapes = jax.eval_shape(small.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    >>> params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    >>> large, longer = resized(small, params, 96)
    >>> params["pool"]["position"].shape, longer["pool"]["position"].shape, large.image
    ((5, 128), (10, 128), 96)
    """
    _demand_multiple(image)
    old, new = module.image // STRIDE, image // STRIDE
    if new == old:
        return module, params
    table, matrix = np.asarray(params["pool"]["position"]), cubic_antialiased(old, new)
    grid = np.einsum("ir,js,rsd->ijd", matrix, matrix, table[1:].reshape(old, old, -1), optimize=True)
    position = np.concatenate([table[:1], grid.reshape(new * new, -1).astype(table.dtype)])
    return module.clone(image=image), {**params, "pool": {**params["pool"], "position": jnp.asarray(position)}}


def _demand_multiple(image: int) -> None:
    if check.whole("image", image) % STRIDE:
        raise ValueError(
            f"image: expected a multiple of {STRIDE} pixels, but got {image}. Take "
            f"{math.ceil(image / STRIDE) * STRIDE}."
        )


class ClipResNet(nn.Module):
    """Stem, stages, attention, projection: ``images [b, image, image, c] -> outputs [b, classes]``.

    Attributes:
      blocks: the residual blocks, in order.  The first of every stage is always there.
      classes: the number of outputs; 0: no projection, the outputs are the features.
      width: the filters of the first stage.
      image: height and width of the images, in pixels.
    """

    blocks: tuple[BlockShape, ...]
    classes: int
    width: int
    image: int

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train=True`` normalises by the batch, and wants ``mutable=["batch_stats"]``."""
        if jnp.ndim(images) != 4 or jnp.shape(images)[1:3] != (self.image, self.image):
            raise ValueError(
                f"images: expected [b, {self.image}, {self.image}, c], but got the shape {jnp.shape(images)}. Resize "
                "the images, or build the network with their size. A single image needs a batch axis: images[None]."
            )
        check.floating_images(images)
        layers = Layers(train, keras=False)
        x = Stem(self.width, layers, name="stem")(images)
        for shape in self.blocks:
            stride = 2 if shape.stage > 1 and shape.number == 0 else 1
            filters = self.width * 2 ** (shape.stage + 1)
            x = Bottleneck(filters, shape.inner, stride, shape.tag, layers, name=shape.name)(x)
        features = checkpoint_name(AttentionPool(HEAD_WIDTH, name="pool")(x), "features")
        return nn.Dense(self.classes, kernel_init=LECUN_NORMAL, name="head")(features) if self.classes else features

    @nn.nowrap
    def projects(self, shape: BlockShape) -> bool:
        """Whether the shortcut of a block is a projection: that of the first block of every stage."""
        return shape.number == 0

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of blocks in every stage."""
        stages = [shape.stage for shape in self.blocks]
        return tuple(stages.count(stage) for stage in range(1, max(stages) + 1))

    @nn.nowrap
    def groups(self) -> tuple[Group, ...]:
        """Lists the inner filters of every block, and the blocks that can go: all but the first of each stage."""
        return block_groups(self.blocks)

    @nn.nowrap
    def without(self, gates: Gates) -> "ClipResNet":
        """Returns the shape without the filters and blocks whose gates are False."""
        return self.clone(blocks=blocks_without(self.blocks, gates))

    @nn.nowrap
    def network(self, params: Any, state: Any) -> Network:
        """Makes the network of this shape."""
        return Network.from_linen(self, {"params": params, **state}, train={"train": True})

    @nn.nowrap
    def describe(self) -> dict[str, Any]:
        """Writes the shape as values that JSON has."""
        numbers = {"classes": self.classes, "width": self.width, "image": self.image}
        return {"family": "clip_resnet", **numbers, "blocks": written_blocks(self.blocks)}

    @staticmethod
    def described(values: Mapping[str, Any]) -> "ClipResNet":
        """Reads what ``describe`` wrote."""
        numbers = {name: values[name] for name in ("classes", "width", "image")}
        return ClipResNet(read_blocks(values["blocks"]), **numbers)


class Stem(nn.Module):
    """Three 3x3 convolutions, the first with stride 2, then the mean over two by two."""

    filters: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / 4, w / 4, filters]``."""
        for number, filters in enumerate((self.filters // 2, self.filters // 2, self.filters), start=1):
            x = self.layers.convolution(filters, 3, 2 if number == 1 else 1, f"conv{number}")(x)
            x = nn.relu(self.layers.norm(f"norm{number}")(x))
        return shrunk(x, 2)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, with an average pool before the last and before the shortcut's.

    The last convolution, like the shortcut, has four times the filters.
    """

    filters: int
    inner: tuple[int, ...]
    stride: int
    tag: str
    layers: Layers

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``."""
        layers, y = self.layers, x
        for number, size in ((1, 1), (2, 3)):
            y = layers.convolution(self.inner[number - 1], size, 1, f"conv{number}")(y)
            y = nn.relu(layers.norm(f"norm{number}")(y))
            y = checkpoint_name(y, f"{self.tag}/units{number}")
        y = layers.convolution(self.filters, 1, 1, "conv3")(shrunk(y, self.stride))
        y = checkpoint_name(layers.norm("norm3")(y), f"{self.tag}/branch")
        x = layers.shortcut(shrunk(x, self.stride), self.filters, 1)
        return checkpoint_name(nn.relu(x + y), self.tag)


class AttentionPool(nn.Module):
    """Attention from the mean over a map to the map: ``softmax(q k^T / sqrt(head_width)) v`` for every head."""

    head_width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, d]`` to ``[b, d]``."""
        width = x.shape[-1]
        x = rearrange(x, "b h w d -> b (h w) d")
        x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
        scaled = in_a_line(nn.initializers.normal(width**-0.5))
        x = x + self.param("position", scaled, x.shape[1:], jnp.float32)[None]

        def project(name: str, tokens: Any) -> Any:
            values = nn.Dense(width, kernel_init=scaled, name=name)(tokens)
            return rearrange(values, "b t (heads dim) -> b t heads dim", dim=self.head_width)

        query, key, value = project("query", x[:, :1]), project("key", x), project("value", x)
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(self.head_width)
        attention = checkpoint_name(nn.softmax(logits), "pool/attention")
        mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, value)[:, 0]
        return rearrange(checkpoint_name(mixed, "pool/heads"), "b heads dim -> b (heads dim)")


def shrunk(x: Any, factor: int) -> Any:
    """Takes the mean over squares of so many pixels; what is left over at the right and bottom edge is not seen."""
    return x if factor == 1 else nn.avg_pool(x, (factor, factor), strides=(factor, factor))
