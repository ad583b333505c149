"""What EfficientNet-Lite is made of: convolutions with BatchNorm, inverted residual blocks, and what can be removed."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune.groups import Gates, Group, Member, alive, lives
from jaxprune.models.initial import HE_NORMAL, scaled
from jaxprune.sites.depthwise import depthwise
from jaxprune.sites.windows import Window

# Every filter of a depthwise convolution sees one channel, and so does every channel one filter: the variance is
# 2 / fan_in of its kernel [h, w, 1, c], of which the fan_out would count all channels.
_DEPTHWISE = partial(scaled, gain=2.0, fan="in")
# Flax's momentum is the share of the old value, as TensorFlow's is.
_MOMENTUM, _EPSILON = 0.99, 1e-3


class BlockShape(NamedTuple):
    """Where a block stands, and the channels of its expansion; 0: it has none, and convolves its input."""

    stage: int
    number: int
    hidden: int

    @property
    def name(self) -> str:
        """The name of its parameters, such as ``stage1_block0``."""
        return f"stage{self.stage}_block{self.number}"

    @property
    def tag(self) -> str:
        """The name of its output, such as ``stage1/block0``."""
        return f"stage{self.stage}/block{self.number}"


def relu6(x: Any) -> Any:
    """Computes ``min(max(x, 0), 6)``, with the derivative 0 at 0, as PyTorch has it (``jax.nn.relu6``: 1/2)."""
    return jnp.minimum(nn.relu(x), 6.0)


def convolution(filters: int, kernel: int, stride: int, name: str, *, depthwise: bool = False) -> nn.Conv:
    """Makes a square convolution without bias; a depthwise one has one filter for each of as many channels."""
    # "SAME", and not the explicit padding of PyTorch: at stride 2 TensorFlow pads an even image at its lower and right
    # edge only.
    return nn.Conv(
        filters,
        (kernel, kernel),
        strides=stride,
        padding="SAME",
        feature_group_count=filters if depthwise else 1,
        use_bias=False,
        kernel_init=_DEPTHWISE if depthwise else HE_NORMAL,
        name=name,
    )


class SlicedDepthwise(nn.Module):
    """A depthwise convolution as the sum of its taps, each a slice of the padded input times the filters' entries.

    The same parameter and, up to rounding, the same numbers as ``convolution(..., depthwise=True)``.
    """

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, c]``, rounded up."""
        kernel = self.param("kernel", _DEPTHWISE, (self.kernel, self.kernel, 1, x.shape[-1]), jnp.float32)
        sizes, strides = (self.kernel,) * 2, (self.stride,) * 2
        edges = jax.lax.padtype_to_pads(x.shape[1:3], sizes, strides, "SAME")
        window = Window(strides, tuple(edges), inner=(1, 1), outer=(1, 1))
        return depthwise(x, kernel[:, :, 0], window)


class Pointwise(nn.Module):
    """A convolution of one pixel as a product of matrices: the same parameter and, up to rounding, the same numbers."""

    filters: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h, w, filters]``."""
        kernel = self.param("kernel", HE_NORMAL, (1, 1, x.shape[-1], self.filters), jnp.float32)
        return x @ kernel[0, 0]


def pointwise(filters: int, name: str, *, sliced: bool) -> nn.Module:
    """Makes a convolution of one pixel, in the form that ``sliced`` networks have or in the other."""
    return Pointwise(filters, name=name) if sliced else convolution(filters, 1, 1, name)


def norm(train: bool, name: str) -> nn.BatchNorm:
    """Makes a BatchNorm."""
    return nn.BatchNorm(use_running_average=not train, momentum=_MOMENTUM, epsilon=_EPSILON, name=name)


class ConvNorm(nn.Module):
    """A convolution, its BatchNorm, and ReLU6: the stem, and what stands before the mean."""

    filters: int
    kernel: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``, rounded up."""
        x = convolution(self.filters, self.kernel, self.stride, "conv")(x)
        return relu6(norm(self.train, "norm")(x))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, beside a shortcut where input and output have one shape.

    ``x + norm3(project(relu6(norm2(depthwise(relu6(norm1(expand(x))))))))``: the end has no activation.

    Attributes:
      filters: of the output.
      hidden: the channels of the expansion; 0: there is none.
      kernel: height and width of the depthwise kernels.
      stride: of the depthwise convolution.
      tag: the name of its output.
      train: whether to normalise by the batch.
      sliced: whether its convolutions are sums of slices, and products.
    """

    filters: int
    hidden: int
    kernel: int
    stride: int
    tag: str
    train: bool
    sliced: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``, rounded up."""
        y = x
        if self.hidden:
            y = pointwise(self.hidden, "expand", sliced=self.sliced)(y)
            y = checkpoint_name(relu6(norm(self.train, "norm1")(y)), f"{self.tag}/expanded")
        if self.sliced:
            y = SlicedDepthwise(self.kernel, self.stride, name="depthwise")(y)
        else:
            y = convolution(y.shape[-1], self.kernel, self.stride, "depthwise", depthwise=True)(y)
        y = checkpoint_name(relu6(norm(self.train, "norm2")(y)), f"{self.tag}/units")
        y = pointwise(self.filters, "project", sliced=self.sliced)(y)
        y = norm(self.train, "norm3")(y)
        if self.stride == 1 and x.shape[-1] == self.filters:
            y = x + checkpoint_name(y, f"{self.tag}/branch")
        return checkpoint_name(y, self.tag)


def block_groups(blocks: Sequence[BlockShape]) -> tuple[Group, ...]:
    """Lists the inner channels of blocks that expand, and the blocks that can go: all but the first of each stage.

    A block goes by losing its branch: ``x + 0 = x``.
    """
    found = []
    for shape in blocks:
        if shape.hidden:
            found.append(_channels(shape))
        if shape.number > 0:
            owned = tuple(Member(name) for name in (shape.name, f"batch_stats/{shape.name}"))
            found.append(Group(shape.name, 1, owned, (f"{shape.tag}/branch",), stage=f"stage{shape.stage}"))
    return tuple(found)


def _channels(shape: BlockShape) -> Group:
    """An inner channel is one through the whole block: its expansion, its depthwise filter, and both norms."""
    made = {"expand/kernel": 3, "depthwise/kernel": 3}
    made |= {f"norm{number}/{leaf}": 0 for number in (1, 2) for leaf in ("scale", "bias")}
    members = [
        *(Member(f"{shape.name}/{leaf}", axis) for leaf, axis in made.items()),
        *(Member(f"batch_stats/{shape.name}/norm{one}/{leaf}", 0) for one in (1, 2) for leaf in ("mean", "var")),
        Member(f"{shape.name}/project/kernel", 2, reads=True),
    ]
    return Group(f"{shape.name}/units", shape.hidden, tuple(members), (f"{shape.tag}/units",))


def blocks_without(blocks: Sequence[BlockShape], gates: Gates) -> tuple[BlockShape, ...]:
    """Lists the blocks that are left without the channels and blocks whose gates are False."""
    return tuple(
        shape._replace(hidden=alive(gates, f"{shape.name}/units", shape.hidden))
        for shape in blocks
        if lives(gates, shape.name)
    )


def written_blocks(blocks: Sequence[BlockShape]) -> dict[str, int]:
    """Writes blocks as values that JSON has: ``{name: inner channels}``."""
    return {shape.name: shape.hidden for shape in blocks}


def read_blocks(values: Any) -> tuple[BlockShape, ...]:
    """Reads what ``written_blocks`` wrote; of anything else, raises what comes."""
    blocks = []
    for name, hidden in values.items():
        stage, number = map(int, re.findall(r"\d+", name))
        blocks.append(BlockShape(stage, number, hidden))
    return tuple(blocks)
