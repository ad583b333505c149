"""What transformers have in common: dense layers, the MLP, and what can be removed of a block.

A block has two residual branches, ``attention`` and ``mlp``, each with a normalisation of its own, ``norm1`` and
``norm2``.  A branch with no heads, or no hidden units, is gone, biases and normalisation included.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune.groups import Gates, Group, Member, alive, lives
from jaxprune.models.initial import NORMAL

LAYERS = ("branches", "blocks")

# Exact; by a tanh, as Flax has it unless told otherwise; by a sigmoid, as CLIP has it.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


@runtime_checkable
class BlockShape(Protocol):
    """Where a block stands, the heads of its attention and the hidden units of its MLP: a named tuple of numbers."""

    @property
    def heads(self) -> int:
        """The number of heads."""
        ...

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        ...

    @property
    def name(self) -> str:
        """The name of its parameters, such as ``stage1_block0``."""
        ...

    @property
    def tag(self) -> str:
        """The name of its output, such as ``stage1/block0``."""
        ...

    def _replace(self, **changes: Any) -> Any: ...


Shape = TypeVar("Shape", bound=BlockShape)


class MLP(nn.Module):
    """Two dense layers about an activation."""

    hidden: int
    tag: str
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps tokens [..., d] to tokens of the same shape."""
        units = ACTIVATIONS[self.activation](dense(self.hidden, "hidden")(x))
        units = checkpoint_name(units, f"{self.tag}/units")
        return dense(x.shape[-1], "output")(units)


def dense(features: int, name: str, bias: bool = True) -> nn.Dense:
    """Makes a dense layer."""
    return nn.Dense(features, use_bias=bias, kernel_init=NORMAL, name=name)


def block_groups(shape: BlockShape, heads: Sequence[Member], axis: int, layers: str) -> list[Group]:
    """Lists the heads and hidden units of a block, and its layers.

    Args:
      shape: the block.
      heads: what a head owns.
      axis: the axis of the values at the site ``heads`` that counts the heads.
      layers: "branches" or "blocks".
    """
    branches = {"attention": ("norm1", "branch1", shape.heads), "mlp": ("norm2", "branch2", shape.hidden)}
    there = {name: entry for name, entry in branches.items() if entry[2]}
    found = []
    if shape.heads:
        found.append(Group(f"{shape.name}/heads", shape.heads, tuple(heads), (f"{shape.tag}/heads",), axis=axis))
    if shape.hidden:
        found.append(_hidden(shape))
    owned = {n: (Member(f"{shape.name}/{norm}"), Member(f"{shape.name}/{n}")) for n, (norm, *_) in there.items()}
    sites = {name: f"{shape.tag}/{branch}" for name, (_, branch, _) in there.items()}
    if layers == "branches":
        found += [Group(f"{shape.name}/{name}", 1, owned[name], (sites[name],), stage=name) for name in there]
    elif there:
        found.append(Group(shape.name, 1, sum(owned.values(), ()), tuple(sites.values()), stage="blocks"))
    return found


def _hidden(shape: BlockShape) -> Group:
    mlp = f"{shape.name}/mlp"
    made = (Member(f"{mlp}/hidden/kernel", 1), Member(f"{mlp}/hidden/bias", 0))
    read = Member(f"{mlp}/output/kernel", 0, reads=True)
    return Group(f"{shape.name}/units", shape.hidden, (*made, read), (f"{shape.tag}/units",))


def blocks_without(blocks: Sequence[Shape], gates: Gates) -> tuple[Shape, ...]:
    """Lists the blocks that are left without the heads, hidden units, branches and blocks whose gates are False."""
    left = []
    for shape in blocks:
        attention, mlp = (
            lives(gates, shape.name) and lives(gates, f"{shape.name}/{name}") for name in ("attention", "mlp")
        )
        heads = alive(gates, f"{shape.name}/heads", shape.heads) if attention else 0
        hidden = alive(gates, f"{shape.name}/units", shape.hidden) if mlp else 0
        left += [shape._replace(heads=heads, hidden=hidden)] if heads or hidden else []
    return tuple(left)
