"""Swin transformers of version 2: attention inside windows, which every other block moves by half their size.

A patch embedding, stages of blocks that normalise what they add, a merging of two by two patches between stages, a
LayerNorm, the mean over positions, and a linear head.  Images of any size will do: the attention pads its map to a
multiple of the window.

Query, key, value and output are four dense kernels [in, out], the heads contiguous slices of the output axis (of the
input axis for "output").  So a unit is an index of the last axis in every kernel, and pruning needs no special case.
Keys have no bias: torchvision stores one, and sets it to zero at each evaluation.

The module is its own specification (``jaxprune.groups``): a few numbers, and for every block its heads and the hidden
units of its MLP.  A branch with none of them is gone, biases and LayerNorm included.  Merging stays.

The network tags what happens inside it with ``jax.ad_checkpoint.checkpoint_name``, which changes no number:

    stage1/block0             the output of a block                     [b, h, w, d]
    stage1/block0/keys        the keys of its attention                 [b, h, w, heads, d / heads]
    stage1/block0/attention   the probabilities, softmax over the last  [b, windows, heads, t, t]
    stage1/block0/heads       the values that each head has mixed       [b, h, w, heads, d / heads]
    stage1/block0/units       the hidden units of its MLP, after GELU   [b, h, w, 4 d]
    stage1/block0/branch1     what the attention adds                   [b, h, w, d]
    stage1/block0/branch2     what the MLP adds                         [b, h, w, d]
    map                       the last stage's output, normalised       [b, h, w, d]
    features                  its mean over positions, for the head     [b, d]

A window has t = window^2 tokens, row by row, and the windows follow row by row too; where a block moves them, both are
those of the moved map, whose first row is the map's row ``window // 2``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check
from jaxprune.groups import Gates, Group, Member
from jaxprune.models.initial import NORMAL
from jaxprune.models.swin_blocks import Block, Merge, norm
from jaxprune.models.transformer_blocks import LAYERS, block_groups, blocks_without, dense
from jaxprune.network import Network

# Size: width and heads of the first stage, and the blocks of every stage.
SIZES = {"t": (96, 3, (2, 2, 6, 2)), "s": (96, 3, (2, 2, 18, 2)), "b": (128, 4, (2, 2, 18, 2))}


def swin_v2(
    size: str = "t",
    patch: int = 4,
    window: int = 8,
    depths: Sequence[int] | None = None,
    classes: int = 1000,
    *,
    width: int | None = None,
    heads: Sequence[int] | None = None,
    layers: str = "branches",
) -> "SwinV2":
    """Makes a Swin transformer of version 2, equal to torchvision's of the same name.

    Every stage halves height and width and doubles the features of the one before.  Torchvision's stochastic depth,
    which acts in training only, is left out.

    Args:
      size: "t" (96 wide, blocks 2, 2, 6, 2), "s" (96, 2, 2, 18, 2) or "b" (128, 2, 2, 18, 2).
      patch: height and width of a patch, in pixels.
      window: height and width of a window, in tokens; 2 or more.
      depths: the blocks of every stage, in place of the size's.
      classes: the number of outputs.  0: there is no head, and the outputs are the features.
      width: the number of features of a token in the first stage, in place of the size's.
      heads: the attention heads of every stage, each a divisor of its width.  None: 3 in the first stage (4 in size
        "b"), and twice as many in every further one.
      layers: what goes as one where layers are removed: "branches" (an attention, or an MLP) or "blocks" (both).

    Returns:
      A module, ``module(images [b, h, w, c], train=False) -> outputs [b, classes]``, for images of any size from one
      patch on.  What is left of an image at its right and bottom edge, narrower than a patch, is not seen.  The module
      has no dropout and no statistics, so ``train`` changes nothing.

    Raises:
      ValueError: an unknown size or layers, a window below 2, no depths, as many heads as there are not stages, a width
        that is no multiple of the heads, or a number that is not whole and positive.

    Source: Liu et al. (2022), arXiv 2111.09883; windows from Liu et al. (2021), arXiv 2103.14030.

    >>> import jax
    >>> variables = jax.eval_shape(swin_v2("t").init, jax.random.key(0), jnp.ones((1, 256, 256, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    28347154
    """
    check.choice("size", size, SIZES)
    check.choice("layers", layers, LAYERS)
    width = SIZES[size][0] if width is None else width
    depths = SIZES[size][2] if depths is None else tuple(depths)
    heads = [SIZES[size][1] * 2**stage for stage in range(len(depths))] if heads is None else heads
    check.whole("classes", classes, least=0)
    numbers = {"patch": patch, "width": width}
    numbers |= {f"depths[{stage}]": depth for stage, depth in enumerate(depths)}
    numbers |= {f"heads[{stage}]": number for stage, number in enumerate(heads)}
    for name, number in numbers.items():
        check.whole(name, number)
    if check.whole("window", window) < 2:
        raise ValueError(
            f"window: expected 2 or more tokens, but got {window}. Positions are measured in windows less a token."
        )
    if not depths:
        raise ValueError("depths: expected the blocks of one stage or more, but got (). Pass (2, 2), or None.")
    if len(heads) != len(depths):
        raise ValueError(
            f"heads: expected one number for each of the {len(depths)} stages of depths={depths}, but got "
            f"{tuple(heads)}. Pass {len(depths)} numbers, or None."
        )
    for stage, number in enumerate(heads):
        if (width * 2**stage) % number:
            raise ValueError(
                f"heads: expected divisors of the widths, but stage {stage + 1} is {width * 2**stage} wide and has "
                f"{number} heads. Take a width of {math.ceil(width / number) * number}, or other heads."
            )
    blocks = tuple(
        BlockShape(stage, number, heads[stage - 1], 4 * width * 2 ** (stage - 1))
        for stage, depth in enumerate(depths, start=1)
        for number in range(depth)
    )
    head_widths = tuple(width * 2**stage // number for stage, number in enumerate(heads))
    options: Any = {"patch": patch, "window": window, "classes": classes, "layers": layers}
    return SwinV2(blocks, width=width, head_widths=head_widths, **options)


class BlockShape(NamedTuple):
    """Where a block stands, the heads of its attention and the hidden units of its MLP; 0: that branch is gone."""

    stage: int
    number: int
    heads: int
    hidden: int

    @property
    def name(self) -> str:
        """The name of its parameters, such as ``stage1_block0``."""
        return f"stage{self.stage}_block{self.number}"

    @property
    def tag(self) -> str:
        """The name of its output, such as ``stage1/block0``."""
        return f"stage{self.stage}/block{self.number}"


class SwinV2(nn.Module):
    """Embedding, stages, mean, head: ``images [b, h, w, c] -> outputs [b, classes]``.

    Attributes:
      blocks: the blocks, in order.
      patch: height and width of a patch, in pixels.
      window: height and width of a window, in tokens.
      classes: the number of outputs.
      width: the number of features of a token in the first stage.
      head_widths: the dimensions of a head, for every stage.
      layers: what goes as one layer, see ``swin_v2``.
    """

    blocks: tuple[BlockShape, ...]
    patch: int
    window: int
    classes: int
    width: int
    head_widths: tuple[int, ...]
    layers: str = "branches"

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train`` changes nothing."""
        if jnp.ndim(images) != 4 or min(jnp.shape(images)[1:3]) < self.patch:
            raise ValueError(
                f"images: expected [b, h, w, c] with h and w of {self.patch} (one patch) or more, but got the shape "
                f"{jnp.shape(images)}. Resize the images. A single image needs a batch axis: images[None]."
            )
        check.floating_images(images)
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, strides=size, padding="VALID", kernel_init=NORMAL, name="embed")(images)
        x = norm("embed_norm")(x)
        for stage, head_width in enumerate(self.head_widths, start=1):
            x = Merge(name=f"merge{stage - 1}")(x) if stage > 1 else x
            for shape in (shape for shape in self.blocks if shape.stage == stage):
                # A block keeps its windows where others before it are removed.
                shift = self.window // 2 if shape.number % 2 else 0
                x = Block(shape.heads, shape.hidden, head_width, self.window, shift, shape.tag, name=shape.name)(x)
        x = checkpoint_name(norm("norm")(x), "map")
        features = checkpoint_name(jnp.mean(x, axis=(1, 2)), "features")
        return dense(self.classes, "head")(features) if self.classes else features

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of blocks in every stage."""
        stages = [shape.stage for shape in self.blocks]
        return tuple(stages.count(stage) for stage, _ in enumerate(self.head_widths, start=1))

    @nn.nowrap
    def groups(self) -> tuple[Group, ...]:
        """Lists the heads and hidden units of every block, and its layers; one layer of every kind stays."""
        return tuple(
            group
            for shape in self.blocks
            for group in block_groups(shape, _heads(shape, self.head_widths[shape.stage - 1]), 3, self.layers)
        )

    @nn.nowrap
    def without(self, gates: Gates) -> "SwinV2":
        """Returns the shape without the heads, hidden units, branches and blocks whose gates are False."""
        return self.clone(blocks=blocks_without(self.blocks, gates))

    @nn.nowrap
    def network(self, params: Any, state: Any) -> Network:
        """Makes the network of this shape."""
        return Network.from_linen(self, {"params": params, **state}, train={"train": True})

    @nn.nowrap
    def describe(self) -> dict[str, Any]:
        """Writes the shape as values that JSON has."""
        return {
            "family": "swin_v2",
            "patch": self.patch,
            "window": self.window,
            "classes": self.classes,
            "width": self.width,
            "head_widths": list(self.head_widths),
            "layers": self.layers,
            "blocks": {shape.name: {"heads": shape.heads, "hidden": shape.hidden} for shape in self.blocks},
        }

    @staticmethod
    def described(values: Mapping[str, Any]) -> "SwinV2":
        """Reads what ``describe`` wrote."""
        blocks = []
        for name, shape in values["blocks"].items():
            stage, number = map(int, re.findall(r"\d+", name))
            blocks.append(BlockShape(stage, number, shape["heads"], shape["hidden"]))
        names = ("patch", "window", "classes", "width", "layers")
        options = {name: values[name] for name in names}
        return SwinV2(tuple(blocks), head_widths=tuple(values["head_widths"]), **options)


def _heads(shape: BlockShape, dimensions: int) -> list[Member]:
    attention = f"{shape.name}/attention"
    members = [Member(f"{attention}/{name}/kernel", 1, dimensions) for name in ("query", "key", "value")]
    members += [Member(f"{attention}/{name}/bias", 0, dimensions) for name in ("query", "value")]
    members += [Member(f"{attention}/logit_scale", 0), Member(f"{attention}/position/output/kernel", 1)]
    return [*members, Member(f"{attention}/output/kernel", 0, dimensions, reads=True)]
