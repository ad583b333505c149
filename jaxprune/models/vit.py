"""Vision transformers.

A patch embedding, a class token, learned positions, pre-norm blocks, and a linear head on the class token.  Options
are what the published networks do in other ways (CLIP, DINO, big_vision).

Query, key, value and output are four dense kernels [in, out], the heads contiguous slices of the output axis (of the
input axis for "output").  So a unit is an index of the last axis in every kernel, and pruning needs no special case.

The module is its own specification (``jaxprune.groups``): a few numbers, and for every block its heads and the hidden
units of its MLP.  A branch with none of them is gone, biases and LayerNorm included.

The network tags what happens inside it with ``jax.ad_checkpoint.checkpoint_name``, which changes no number:

    block0             the output of a block                     [b, t, d]
    block0/keys        the keys of its attention                 [b, t, heads, d / heads]
    block0/attention   the probabilities, softmax over the last  [b, heads, t, t]
    block0/heads       the values that each head has mixed       [b, t, heads, d / heads]
    block0/units       the hidden units of its MLP, activated    [b, t, 4 d]
    block0/branch1     what the attention adds                   [b, t, d]
    block0/branch2     what the MLP adds                         [b, t, d]
    features           the class token, input of the head        [b, d]

Token 0 is the class token; the patches follow, row by row.  With ``pool="mean"`` there is none, and the features are
the mean over the patches.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check
from jaxprune.groups import Gates, Group, Member
from jaxprune.models.initial import NORMAL
from jaxprune.models.transformer_blocks import ACTIVATIONS, LAYERS, MLP, block_groups, blocks_without, dense
from jaxprune.network import Network

# Size: width, heads, blocks.
SIZES = {"ti": (192, 3, 12), "s": (384, 6, 12), "b": (768, 12, 12), "l": (1024, 16, 24)}

POOLS = ("token", "mean")


def vit(
    size: str = "s",
    patch: int = 16,
    image: int = 224,
    classes: int = 1000,
    *,
    width: int | None = None,
    heads: int | None = None,
    depth: int | None = None,
    layers: str = "branches",
    norm_epsilon: float = 1e-6,
    activation: str = "gelu",
    embed_bias: bool = True,
    pre_norm: bool = False,
    head_bias: bool = True,
    pool: str = "token",
) -> "ViT":
    """Makes a vision transformer; without options it equals those of DeiT, timm and torchvision of the same name.

    Args:
      size: "ti" (192 wide, 3 heads), "s" (384, 6) or "b" (768, 12), of twelve blocks, or "l" (1024, 16), of 24.
      patch: height and width of a patch, in pixels.
      image: height and width of the images, in pixels; a multiple of ``patch``.
      classes: the number of outputs.  0: there is no head, and the outputs are the features.
      width: the number of features of a token, in place of the size's; a multiple of ``heads``.
      heads: the number of attention heads, in place of the size's.
      depth: the number of blocks, in place of the size's.
      layers: what goes as one where layers are removed: "branches" (an attention, or an MLP) or "blocks" (both).
      norm_epsilon: what LayerNorm adds to a variance; CLIP's is 1e-5.
      activation: of the MLPs.  "gelu" is exact, "gelu_tanh" its approximation by a tanh (big_vision) and "quick_gelu"
        ``x sigmoid(1.702 x)`` (CLIP).
      embed_bias: whether the patch embedding has a bias; CLIP's has none.
      pre_norm: whether the tokens are normalised before the first block, as CLIP's are.
      head_bias: whether the head has a bias; CLIP's projection has none.
      pool: what the features are: the class "token", or the "mean" over the patches (big_vision's "gap"); then there is
        no class token.

    Returns:
      A module, ``module(images [b, image, image, c], train=False) -> outputs [b, classes]``.  It has no dropout and no
      statistics, so ``train`` changes nothing.

    Raises:
      ValueError: an unknown size, layers, activation or pool, an image that is no multiple of the patch, a width that
        is no multiple of the heads, or a number that is not whole and positive.

    Source: Dosovitskiy et al. (2021), arXiv 2010.11929; sizes from Touvron et al. (2021), arXiv 2012.12877; options
    from Radford et al. (2021), arXiv 2103.00020, and Beyer et al. (2022), arXiv 2205.01580.

    >>> import jax
    >>> variables = jax.eval_shape(vit("ti").init, jax.random.key(0), jnp.ones((1, 224, 224, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    5717416
    """
    check.choice("size", size, SIZES)
    for name, value, known in (
        ("layers", layers, LAYERS),
        ("activation", activation, ACTIVATIONS),
        ("pool", pool, POOLS),
    ):
        check.choice(name, value, known)
    check.positive("norm_epsilon", norm_epsilon)
    width = SIZES[size][0] if width is None else width
    heads = SIZES[size][1] if heads is None else heads
    depth = SIZES[size][2] if depth is None else depth
    check.whole("classes", classes, least=0)
    for name, number in {"patch": patch, "image": image, "width": width, "heads": heads, "depth": depth}.items():
        check.whole(name, number)
    if image % patch:
        raise ValueError(
            f"patch: expected a divisor of image={image}, but got {patch}. Resize the images to "
            f"{math.ceil(image / patch) * patch} pixels, or take another patch."
        )
    if width % heads:
        raise ValueError(
            f"width: expected a multiple of heads={heads}, but got {width}. Take {math.ceil(width / heads) * heads}, "
            "or pass heads as well."
        )
    return ViT(
        tuple(BlockShape(number, heads, 4 * width) for number in range(depth)),
        patch=patch,
        image=image,
        classes=classes,
        width=width,
        head_width=width // heads,
        layers=layers,
        norm_epsilon=norm_epsilon,
        activation=activation,
        embed_bias=embed_bias,
        pre_norm=pre_norm,
        head_bias=head_bias,
        pool=pool,
    )


class BlockShape(NamedTuple):
    """The place of a block, the heads of its attention and the hidden units of its MLP; 0: that branch is gone."""

    number: int
    heads: int
    hidden: int

    @property
    def name(self) -> str:
        """The name of its parameters, such as ``block0``."""
        return f"block{self.number}"

    @property
    def tag(self) -> str:
        """The name of its output."""
        return self.name


class ViT(nn.Module):
    """Embedding, blocks, head: ``images [b, image, image, c] -> outputs [b, classes]``.

    Attributes:
      blocks: the blocks, in order.
      patch: height and width of a patch, in pixels.
      image: height and width of the images, in pixels.
      classes: the number of outputs.
      width: the number of features of a token.
      head_width: the dimensions of a head.
      layers: what goes as one layer; this and what follows: see ``vit``.
      norm_epsilon: what LayerNorm adds to a variance.
      activation: of the MLPs.
      embed_bias: whether the patch embedding has a bias.
      pre_norm: whether the tokens are normalised before the first block.
      head_bias: whether the head has a bias.
      pool: what the features are.
    """

    blocks: tuple[BlockShape, ...]
    patch: int
    image: int
    classes: int
    width: int
    head_width: int
    layers: str = "branches"
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    embed_bias: bool = True
    pre_norm: bool = False
    head_bias: bool = True
    pool: str = "token"

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train`` changes nothing."""
        if jnp.ndim(images) != 4 or jnp.shape(images)[1:3] != (self.image, self.image):
            raise ValueError(
                f"images: expected [b, {self.image}, {self.image}, c], but got the shape {jnp.shape(images)}. Resize "
                "the images, or build the network with their size. A single image needs a batch axis: images[None]."
            )
        check.floating_images(images)
        x = self.tokens(images)
        x = _norm("pre_norm", self.norm_epsilon)(x) if self.pre_norm else x
        for shape in self.blocks:
            x = Block(shape, self.head_width, self.norm_epsilon, self.activation, name=shape.name)(x)
        norm = _norm("norm", self.norm_epsilon)
        # A LayerNorm treats every token alone, so the class token is all that need pass.
        pooled = norm(x[:, 0]) if self.pool == "token" else jnp.mean(norm(x), axis=1)
        features = checkpoint_name(pooled, "features")
        return dense(self.classes, "head", self.head_bias)(features) if self.classes else features

    def tokens(self, images: Any) -> Any:
        """Makes the tokens [b, t, width], positions added: the class token, where there is one, and one per patch."""
        size = (self.patch, self.patch)
        options: Any = {"strides": size, "padding": "VALID", "use_bias": self.embed_bias, "kernel_init": NORMAL}
        tokens = rearrange(nn.Conv(self.width, size, name="embed", **options)(images), "b h w d -> b (h w) d")
        if self.pool == "token":
            class_token = self.param("class_token", nn.initializers.zeros, (self.width,), jnp.float32)
            tokens = jnp.pad(tokens, ((0, 0), (1, 0), (0, 0)))
            # Added, as the positions are, and not set beside the patches: so it has a site, and curvature its price.
            tokens = tokens + (jnp.arange(tokens.shape[1]) == 0)[None, :, None] * class_token[None, None]
        return tokens + self.param("position", NORMAL, tokens.shape[1:], jnp.float32)[None]

    @property
    def token_count(self) -> int:
        """The number of tokens: one for each patch, and the class token."""
        return (self.image // self.patch) ** 2 + (self.pool == "token")

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    @property
    def heads(self) -> int:
        """The number of heads in the largest attention."""
        return max((shape.heads for shape in self.blocks), default=0)

    @nn.nowrap
    def groups(self) -> tuple[Group, ...]:
        """Lists the heads and hidden units of every block, and its layers; one layer of every stage stays."""
        return tuple(
            group
            for shape in self.blocks
            for group in block_groups(shape, _heads(shape, self.head_width), 2, self.layers)
        )

    @nn.nowrap
    def without(self, gates: Gates) -> "ViT":
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
            "family": "vit",
            "patch": self.patch,
            "image": self.image,
            "classes": self.classes,
            "width": self.width,
            "head_width": self.head_width,
            "layers": self.layers,
            # Not written where they have their defaults: shapes are compared and hashed as written, also those from
            # before there were options.
            **{name: getattr(self, name) for name, usual in _OPTIONS.items() if getattr(self, name) != usual},
            "blocks": {shape.name: {"heads": shape.heads, "hidden": shape.hidden} for shape in self.blocks},
        }

    @staticmethod
    def described(values: Mapping[str, Any]) -> "ViT":
        """Reads what ``describe`` wrote."""
        blocks = tuple(
            BlockShape(int(name.removeprefix("block")), shape["heads"], shape["hidden"])
            for name, shape in values["blocks"].items()
        )
        names = ("patch", "image", "classes", "width", "head_width", "layers")
        options = {name: values.get(name, usual) for name, usual in _OPTIONS.items()}
        return ViT(blocks, **{name: values[name] for name in names}, **options)


# What published networks do in other ways, and its usual value.
_OPTIONS = {
    name: getattr(ViT, name) for name in ("norm_epsilon", "activation", "embed_bias", "pre_norm", "head_bias", "pool")
}


def _heads(shape: BlockShape, dimensions: int) -> list[Member]:
    attention = f"{shape.name}/attention"
    members = [Member(f"{attention}/{name}/kernel", 1, dimensions) for name in ("query", "key", "value")]
    members += [Member(f"{attention}/{name}/bias", 0, dimensions) for name in ("query", "key", "value")]
    return [*members, Member(f"{attention}/output/kernel", 0, dimensions, reads=True)]


class Block(nn.Module):
    """A pre-norm block: ``x <- x + attention(norm1(x))``, then ``x <- x + mlp(norm2(x))``; either may be gone."""

    shape: BlockShape
    head_width: int
    norm_epsilon: float
    activation: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps tokens [b, t, d] to tokens of the same shape."""
        tag = self.shape.tag
        if self.shape.heads:
            attention = Attention(self.shape.heads, self.head_width, tag, name="attention")
            branch = attention(_norm("norm1", self.norm_epsilon)(x))
            x = x + checkpoint_name(branch, f"{tag}/branch1")
        if self.shape.hidden:
            mlp = MLP(self.shape.hidden, tag, self.activation, name="mlp")
            branch = mlp(_norm("norm2", self.norm_epsilon)(x))
            x = x + checkpoint_name(branch, f"{tag}/branch2")
        return checkpoint_name(x, tag)


class Attention(nn.Module):
    """Self-attention, ``softmax(q k^T / sqrt(head_width)) v`` for every head, then a dense layer."""

    heads: int
    head_width: int
    tag: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps tokens [b, t, d] to tokens of the same shape."""

        def project(name: str) -> Any:
            values = dense(self.heads * self.head_width, name)(x)
            return rearrange(values, "b t (heads dim) -> b t heads dim", heads=self.heads)

        query, key, value = project("query"), project("key"), project("value")
        key = checkpoint_name(key, f"{self.tag}/keys")
        # Written out rather than fused, so that the probabilities exist and can be read, gated and pruned.
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(self.head_width)
        attention = checkpoint_name(nn.softmax(logits), f"{self.tag}/attention")
        mixed = checkpoint_name(jnp.einsum("bhqk,bkhd->bqhd", attention, value), f"{self.tag}/heads")
        return dense(x.shape[-1], "output")(rearrange(mixed, "b t heads dim -> b t (heads dim)"))


def _norm(name: str, epsilon: float) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, name=name)
