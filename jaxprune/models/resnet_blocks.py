"""What residual networks are made of: stem, basic and bottleneck blocks, their layers, and what can be removed."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune.groups import Gates, Group, Member, alive, lives
from jaxprune.models.initial import HE_NORMAL


class BlockShape(NamedTuple):
    """Where a residual block stands, and the filters of its inner convolutions: one number, two in a bottleneck."""

    stage: int
    number: int
    inner: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its parameters, such as ``stage1_block0``."""
        return f"stage{self.stage}_block{self.number}"

    @property
    def tag(self) -> str:
        """The name of its output, such as ``stage1/block0``."""
        return f"stage{self.stage}/block{self.number}"


def full_blocks(depths: Sequence[int], width: int, bottleneck: bool = False) -> tuple[BlockShape, ...]:
    """Lists the blocks of stages of these depths, with all their filters.

    >>> full_blocks((1, 1), 16)
    (BlockShape(stage=1, number=0, inner=(16,)), BlockShape(stage=2, number=0, inner=(32,)))
    """
    return tuple(
        BlockShape(stage, number, (width * 2 ** (stage - 1),) * (2 if bottleneck else 1))
        for stage, depth in enumerate(depths, start=1)
        for number in range(depth)
    )


class Layers(NamedTuple):
    """Makes convolutions and normalisations, as the whole network has them."""

    train: bool
    keras: bool

    def convolution(self, filters: int, size: int, stride: int, name: str) -> nn.Conv:
        """Makes a square convolution."""
        # Explicit padding, as in PyTorch.  At stride 2, "SAME" pads an even image less above and on the left than below
        # and on the right, which moves every filter by a pixel: converted weights would be wrong in silence.
        edge = (size // 2, size // 2)
        padding = "SAME" if self.keras else (edge, edge)
        options: Any = {"padding": padding, "use_bias": self.keras, "kernel_init": HE_NORMAL}
        return nn.Conv(filters, (size, size), strides=stride, name=name, **options)

    def norm(self, name: str) -> nn.BatchNorm:
        """Makes a BatchNorm."""
        # Flax's momentum is the share of the old value: 0.9 here is PyTorch's 0.1.
        momentum, epsilon = (0.99, 1e-3) if self.keras else (0.9, 1e-5)
        return nn.BatchNorm(use_running_average=not self.train, momentum=momentum, epsilon=epsilon, name=name)

    def shortcut(self, x: Any, filters: int, stride: int) -> Any:
        """Returns x where the block keeps its shape, and else projects it to the new one."""
        if stride == 1 and x.shape[-1] == filters:
            return x
        x = self.convolution(filters, 1, stride, "projection")(x)
        return x if self.keras else self.norm("projection_norm")(x)


class Stem(nn.Module):
    """The first convolution: 3x3, or for large images 7x7 with stride 2, then a max-pool with stride 2."""

    filters: int
    large_images: bool
    layers: Layers
    stride: int = 1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``, large images to a quarter of them."""
        size, stride = (7, 2) if self.large_images else (3, self.stride)
        x = self.layers.convolution(self.filters, size, stride, "conv")(x)
        x = nn.relu(self.layers.norm("norm")(x))
        if self.large_images:
            # Pads with -inf.  Flax's annotation of the padding knows strings only.
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # type: ignore[arg-type]
        return x


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``relu(shortcut(x) + norm2(conv2(relu(norm1(conv1(x))))))``."""

    filters: int
    inner: tuple[int, ...]
    stride: int
    tag: str
    layers: Layers

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``, rounded up."""
        layers = self.layers
        y = layers.convolution(self.inner[0], 3, self.stride, "conv1")(x)
        y = nn.relu(layers.norm("norm1")(y))
        y = checkpoint_name(y, f"{self.tag}/units1")
        y = layers.convolution(self.filters, 3, 1, "conv2")(y)
        y = checkpoint_name(layers.norm("norm2")(y), f"{self.tag}/branch")
        x = layers.shortcut(x, self.filters, self.stride)
        return checkpoint_name(nn.relu(x + y), self.tag)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last one, like the shortcut, has four times the filters."""

    filters: int
    inner: tuple[int, ...]
    stride: int
    tag: str
    layers: Layers

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, c]`` to ``[b, h / stride, w / stride, filters]``, rounded up."""
        layers = self.layers
        y = layers.convolution(self.inner[0], 1, 1, "conv1")(x)
        y = nn.relu(layers.norm("norm1")(y))
        y = checkpoint_name(y, f"{self.tag}/units1")
        y = layers.convolution(self.inner[1], 3, self.stride, "conv2")(y)
        y = nn.relu(layers.norm("norm2")(y))
        y = checkpoint_name(y, f"{self.tag}/units2")
        y = layers.convolution(self.filters, 1, 1, "conv3")(y)
        y = checkpoint_name(layers.norm("norm3")(y), f"{self.tag}/branch")
        x = layers.shortcut(x, self.filters, self.stride)
        return checkpoint_name(nn.relu(x + y), self.tag)


def block_groups(blocks: Sequence[BlockShape], biases: bool = False) -> tuple[Group, ...]:
    """Lists the inner filters of every block, and the blocks that can go: all but the first of each stage.

    A block goes by losing its branch: ``relu(x + 0) = x``, since x comes from a ReLU.

    Args:
      blocks: the blocks.
      biases: whether their convolutions have biases.
    """
    found = []
    for shape in blocks:
        found += [_filters(shape, number, biases) for number in range(1, len(shape.inner) + 1)]
        if shape.number > 0:
            owned = tuple(Member(name) for name in (shape.name, f"batch_stats/{shape.name}"))
            found.append(Group(shape.name, 1, owned, (f"{shape.tag}/branch",), stage=f"stage{shape.stage}"))
    return tuple(found)


def _filters(shape: BlockShape, number: int, biases: bool) -> Group:
    made = {f"conv{number}/kernel": 3, f"norm{number}/scale": 0, f"norm{number}/bias": 0}
    made |= {f"conv{number}/bias": 0} if biases else {}
    members = [
        *(Member(f"{shape.name}/{leaf}", axis) for leaf, axis in made.items()),
        *(Member(f"batch_stats/{shape.name}/norm{number}/{leaf}", 0) for leaf in ("mean", "var")),
        Member(f"{shape.name}/conv{number + 1}/kernel", 2, reads=True),
    ]
    site = f"{shape.tag}/units{number}"
    return Group(f"{shape.name}/units{number}", shape.inner[number - 1], tuple(members), (site,))


def blocks_without(blocks: Sequence[BlockShape], gates: Gates) -> tuple[BlockShape, ...]:
    """Lists the blocks that are left without the filters and blocks whose gates are False."""
    return tuple(
        shape._replace(
            inner=tuple(alive(gates, f"{shape.name}/units{number}", size) for number, size in enumerate(shape.inner, 1))
        )
        for shape in blocks
        if lives(gates, shape.name)
    )


def written_blocks(blocks: Sequence[BlockShape]) -> dict[str, list[int]]:
    """Writes blocks as values that JSON has: ``{name: inner widths}``."""
    return {shape.name: list(shape.inner) for shape in blocks}


def read_blocks(values: Any) -> tuple[BlockShape, ...]:
    """Reads what ``written_blocks`` wrote; of anything else, raises what comes."""
    blocks = []
    for name, inner in values.items():
        stage, number = map(int, re.findall(r"\d+", name))
        blocks.append(BlockShape(stage, number, tuple(inner)))
    return tuple(blocks)
