"""EfficientNet-Lite: inverted residual blocks around depthwise convolutions.

A stem, stages of blocks, a last 1x1 convolution, the mean over positions, a linear head.  A block widens its input
sixfold, convolves every channel by itself, and projects back, without an activation at its end.  The variants "lite"
have ReLU6 in place of swish and no squeeze-and-excitation.  Strides pad as TensorFlow does, images of any size.

The module is its own specification (``jaxprune.groups``): a line for every block that says how many channels it has
inside.  Blocks keep their names when others are removed.

The networks tag what happens inside them with ``jax.ad_checkpoint.checkpoint_name``, which changes no number:

    stage2/block0            the output of a block                               [b, h, w, c]
    stage2/block0/expanded   its channels after the expansion and its ReLU6      [b, h, w, 6 c]
    stage2/block0/units      the same after the depthwise convolution's ReLU6    [b, h, w, 6 c]
    stage2/block0/branch     what is added to the shortcut, where there is one   [b, h, w, c]
    features                 the input of the head                               [b, d]
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check
from jaxprune.groups import Gates, Group
from jaxprune.models.efficientnet_blocks import (
    BlockShape,
    ConvNorm,
    InvertedResidual,
    block_groups,
    blocks_without,
    read_blocks,
    written_blocks,
)
from jaxprune.models.initial import LECUN_NORMAL
from jaxprune.network import Network


class Size(NamedTuple):
    """By how much a network is wider and deeper than the smallest, its images, and its dropout."""

    width: float
    depth: float
    image: int
    dropout: float


SIZES = {
    "lite0": Size(1.0, 1.0, 224, 0.2),
    "lite1": Size(1.0, 1.1, 240, 0.2),
    "lite2": Size(1.1, 1.2, 260, 0.3),
    "lite3": Size(1.2, 1.4, 280, 0.3),
    "lite4": Size(1.4, 1.8, 300, 0.3),
}


class StageShape(NamedTuple):
    """What the blocks of a stage share: their filters, and the kernel of their depthwise convolutions.

    The stride is that of the first block.
    """

    filters: int
    kernel: int
    stride: int


# Of the smallest network: every stage, its blocks, and how much wider they are inside (1: they do not expand).
_STAGES = (
    (StageShape(16, 3, 1), 1, 1),
    (StageShape(24, 3, 2), 2, 6),
    (StageShape(40, 5, 2), 2, 6),
    (StageShape(80, 3, 2), 3, 6),
    (StageShape(112, 5, 1), 3, 6),
    (StageShape(192, 5, 2), 4, 6),
    (StageShape(320, 3, 1), 1, 6),
)
_STEM, _TOP, _MULTIPLE = 32, 1280, 8


def efficientnet_lite(size: str = "lite0", classes: int = 1000, *, dropout: float | None = None) -> "EfficientNetLite":
    """Makes an EfficientNet-Lite, equal to that of TensorFlow's authors.

    A stage of f filters and d blocks gets the multiple of 8 nearest to w f (one more where that is less than 0.9 w f)
    and ceil(d' d) blocks, w and d' the multipliers of the size.  The filters of the stem (32) and of the last
    convolution (1280) are not scaled, nor are the depths of the first and the last stage.  Stochastic depth, which acts
    in training only, is left out.

    Args:
      size: "lite0" (images of 224 pixels), "lite1" (240), "lite2" (260), "lite3" (280) or "lite4" (300).
      classes: the number of outputs; 0 leaves out the head, and the outputs are the features.
      dropout: the share of the features that training drops before the head, in place of the size's (0.2, and 0.3 from
        "lite2" on).

    Returns:
      A module, ``module(images [b, h, w, c], train=False) -> outputs [b, classes]``.  Any image size will do.

    Raises:
      ValueError: an unknown size, classes that are not a whole number of 0 or more, a dropout outside of [0, 1).

    Source: Tan and Le (2019), arXiv 1905.11946; the variants "lite" are of TensorFlow's repository (2020) alone.

    >>> import jax
    >>> variables = jax.eval_shape(efficientnet_lite().init, jax.random.key(0), jnp.ones((1, 224, 224, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    4652008
    """
    scale = SIZES[check.choice("size", size, SIZES)]
    check.whole("classes", classes, least=0)
    dropout = scale.dropout if dropout is None else dropout
    if not (check.is_number(dropout) and 0 <= dropout < 1):
        raise ValueError(f"dropout: expected a share in [0, 1), but got {dropout!r}. Pass 0.0 to drop nothing.")
    stages, blocks, channels = [], [], _STEM
    for number, (stage, depth, expansion) in enumerate(_STAGES, start=1):
        scaled = stage._replace(filters=_rounded(stage.filters * scale.width))
        fixed = number in (1, len(_STAGES))
        for place in range(depth if fixed else math.ceil(depth * scale.depth)):
            blocks.append(BlockShape(number, place, expansion * channels if expansion > 1 else 0))
            channels = scaled.filters
        stages.append(scaled)
    return EfficientNetLite(tuple(blocks), tuple(stages), classes, _STEM, _TOP, float(dropout))


def _rounded(filters: float) -> int:
    """The nearest multiple of 8, no more than a tenth below."""
    nearest = max(_MULTIPLE, int(filters + _MULTIPLE / 2) // _MULTIPLE * _MULTIPLE)
    return nearest if nearest >= 0.9 * filters else nearest + _MULTIPLE


class EfficientNetLite(nn.Module):
    """Stem, stages, last convolution, mean, head: ``images [b, h, w, c] -> outputs [b, classes]``.

    Attributes:
      blocks: the blocks, in order.  The first of every stage is always there.
      stages: what the blocks of each stage share.
      classes: the number of outputs; 0: no head, the outputs are the features.
      stem: the filters of the first convolution.
      top: the filters of the last convolution, as many as there are features.
      dropout: the share of the features that training drops before the head.
      sliced: whether convolutions in blocks are written as XLA runs them fastest on a CPU, see ``sliced``.
    """

    blocks: tuple[BlockShape, ...]
    stages: tuple[StageShape, ...]
    classes: int
    stem: int
    top: int
    dropout: float = 0.0
    sliced: bool = False

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train=True`` normalises by the batch, and wants ``mutable=["batch_stats"]``.

        Where ``dropout`` is above 0, and there is a head, it wants a random stream "dropout" too.
        """
        if jnp.ndim(images) != 4:
            raise ValueError(
                f"images: expected [b, h, w, c], but got the shape {jnp.shape(images)}. A single image needs a "
                "batch axis: images[None]."
            )
        check.floating_images(images)
        x = ConvNorm(self.stem, 3, 2, train, name="stem")(images)
        for shape in self.blocks:
            stage = self.stages[shape.stage - 1]
            stride = stage.stride if shape.number == 0 else 1
            options: Any = {"train": train, "sliced": self.sliced, "name": shape.name}
            x = InvertedResidual(stage.filters, shape.hidden, stage.kernel, stride, shape.tag, **options)(x)
        x = ConvNorm(self.top, 1, 1, train, name="top")(x)
        features = checkpoint_name(jnp.mean(x, axis=(1, 2)), "features")
        if not self.classes:
            return features
        dropped = nn.Dropout(self.dropout, deterministic=not train)(features)
        return nn.Dense(self.classes, kernel_init=LECUN_NORMAL, name="head")(dropped)

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of blocks in every stage."""
        stages = [shape.stage for shape in self.blocks]
        return tuple(stages.count(stage) for stage, _ in enumerate(self.stages, start=1))

    @nn.nowrap
    def groups(self) -> tuple[Group, ...]:
        """Lists the inner channels of every block that expands, and the blocks that can go: those with a shortcut.

        One of those that can go stays in every stage, so that a stage has two blocks at least.
        """
        return block_groups(self.blocks)

    @nn.nowrap
    def without(self, gates: Gates) -> "EfficientNetLite":
        """Returns the shape without the channels and blocks whose gates are False."""
        return self.clone(blocks=blocks_without(self.blocks, gates))

    @nn.nowrap
    def network(self, params: Any, state: Any) -> Network:
        """Makes the network of this shape."""
        return Network.from_linen(self, {"params": params, **state}, train={"train": True})

    @nn.nowrap
    def describe(self) -> dict[str, Any]:
        """Writes the shape as values that JSON has; ``sliced`` is no part of it, since it changes no number."""
        return {
            "family": "efficientnet_lite",
            "classes": self.classes,
            "stem": self.stem,
            "top": self.top,
            "dropout": self.dropout,
            "stages": [stage._asdict() for stage in self.stages],
            "blocks": written_blocks(self.blocks),
        }

    @staticmethod
    def described(values: Mapping[str, Any]) -> "EfficientNetLite":
        """Reads what ``describe`` wrote."""
        stages = tuple(StageShape(**stage) for stage in values["stages"])
        options = {name: values[name] for name in ("classes", "stem", "top", "dropout")}
        return EfficientNetLite(read_blocks(values["blocks"]), stages, **options)


def sliced(network: Network) -> Network:
    """Makes the same network in the form that XLA runs fastest on a CPU, many times faster than as convolutions.

    XLA runs depthwise convolutions on CPUs 10 to 100 times slower than ``sum_ij kernel[i, j] x[i::s, j::s]``, and those
    of one pixel slower than products of matrices.  Outputs and derivatives are the same up to rounding, for evaluation,
    fine-tuning and products with vectors.  But a kernel that enters slice by slice is no site: what ``jp.curvature``
    reads off sites (diagonals, blocks), and scores made of that, want the network as it was; they take slices where it
    has none.

    Args:
      network: of an ``EfficientNetLite``, also with a head, gates or a normalisation on it.

    Returns:
      A network with the same parameters and state; any other network, and any on a GPU or TPU, comes back as it is.

    >>> module = efficientnet_lite(classes=3)
    >>> shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> network = Network.from_linen(module, shapes)
    >>> network.module.sliced, sliced(network).module.sliced
    (False, True)
    """
    if jax.default_backend() != "cpu":
        return network
    return network.replace(apply=_swapped(network.apply), train_apply=_swapped(network.train_apply))


def _swapped(value: Any) -> Any:
    """Puts the sliced module in the place of the other, however deep it lies in an apply."""
    if isinstance(value, EfficientNetLite):
        return value.clone(sliced=True)
    if not dataclasses.is_dataclass(value) or isinstance(value, (nn.Module, type)):
        return value
    return dataclasses.replace(
        value, **{one.name: _swapped(getattr(value, one.name)) for one in dataclasses.fields(value)}
    )
