"""Vision transformers.

A patch embedding, a class token, learned positions, pre-norm blocks, and a linear head on the class token.

Query, key, value and output are four dense kernels [in, out], the heads contiguous slices of the output axis (of the
input axis for "output").  So a unit is an index of the last axis in every kernel, and pruning needs no special case.

The network tags what happens inside it with ``jax.ad_checkpoint.checkpoint_name``, which changes no number:

    block0             the output of a block                     [b, t, d]
    block0/keys        the keys of its attention                 [b, t, heads, d / heads]
    block0/attention   the probabilities, softmax over the last  [b, heads, t, t]
    block0/units       the hidden units of its MLP, after GELU   [b, t, 4 d]
    features           the class token, input of the head        [b, d]

Token 0 is the class token; the patches follow, row by row.
"""

import math
from typing import Any

import jax.numpy as jnp
from einops import rearrange, repeat
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune import check

# Size: width, heads.  All three have twelve blocks.
SIZES = {"ti": (192, 3), "s": (384, 6), "b": (768, 12)}

NORMAL = nn.initializers.truncated_normal(0.02)


def vit(
    size: str = "s",
    patch: int = 16,
    image: int = 224,
    classes: int = 1000,
    *,
    width: int | None = None,
    heads: int | None = None,
    depth: int | None = None,
) -> nn.Module:
    """Makes a vision transformer, equal to DeiT's and timm's of the same name.

    Args:
      size: "ti" (192 wide, 3 heads), "s" (384, 6) or "b" (768, 12), of twelve blocks.
      patch: height and width of a patch, in pixels.
      image: height and width of the images, in pixels; a multiple of ``patch``.
      classes: the number of outputs.
      width: the number of features of a token, in place of the size's; a multiple of ``heads``.
      heads: the number of attention heads, in place of the size's.
      depth: the number of blocks, in place of twelve.

    Returns:
      A module, ``module(images [b, image, image, c], train=False) -> outputs [b, classes]``.  It has no dropout and no
      statistics, so ``train`` changes nothing.

    Raises:
      ValueError: an unknown size, an image that is no multiple of the patch, a width that is no multiple of the heads,
        or a number that is not positive.

    Source: Dosovitskiy et al. (2021), arXiv 2010.11929; sizes from Touvron et al. (2021), arXiv 2012.12877.

    >>> import jax
    >>> variables = jax.eval_shape(vit("ti").init, jax.random.key(0), jnp.ones((1, 224, 224, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    5717416
    """
    check.choice("size", size, SIZES)
    width = SIZES[size][0] if width is None else width
    heads = SIZES[size][1] if heads is None else heads
    depth = 12 if depth is None else depth
    numbers = {"patch": patch, "image": image, "classes": classes, "width": width, "heads": heads, "depth": depth}
    for name, number in numbers.items():
        check.positive(name, number)
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
    return ViT(patch=patch, image=image, classes=classes, width=width, heads=heads, depth=depth)


class ViT(nn.Module):
    """Embedding, blocks, head: ``images [b, image, image, c] -> outputs [b, classes]``.

    Attributes:
      patch: height and width of a patch, in pixels.
      image: height and width of the images, in pixels.
      classes: the number of outputs.
      width: the number of features of a token.
      heads: the number of attention heads.
      depth: the number of blocks.
    """

    patch: int
    image: int
    classes: int
    width: int
    heads: int
    depth: int

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        """Evaluates the network; ``train`` changes nothing."""
        if jnp.ndim(images) != 4 or jnp.shape(images)[1:3] != (self.image, self.image):
            raise ValueError(
                f"images: expected [b, {self.image}, {self.image}, c], but got the shape {jnp.shape(images)}. Resize "
                "the images, or build the network with their size. A single image needs a batch axis: images[None]."
            )
        x = self.tokens(images)
        for index in range(self.depth):
            x = Block(self.heads, f"block{index}", name=f"block{index}")(x)
        # A LayerNorm treats every token alone, so the class token is all that need pass.
        features = checkpoint_name(_norm("norm")(x[:, 0]), "features")
        return _dense(self.classes, "head")(features)

    def tokens(self, images: Any) -> Any:
        """Makes the tokens [b, 1 + patches, width]: the class token and one per patch, positions added."""
        size = (self.patch, self.patch)
        patches = nn.Conv(self.width, size, strides=size, padding="VALID", kernel_init=NORMAL, name="embed")(images)
        patches = rearrange(patches, "b h w d -> b (h w) d")
        class_token = self.param("class_token", nn.initializers.zeros, (self.width,))
        class_token = repeat(class_token, "d -> b 1 d", b=patches.shape[0])
        tokens = jnp.concatenate([class_token, patches], axis=1)
        return tokens + self.param("position", NORMAL, tokens.shape[1:])[None]


class Block(nn.Module):
    """A pre-norm block: ``x <- x + attention(norm1(x))``, then ``x <- x + mlp(norm2(x))``."""

    heads: int
    tag: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps tokens [b, t, d] to tokens of the same shape."""
        x = x + Attention(self.heads, self.tag, name="attention")(_norm("norm1")(x))
        x = x + MLP(self.tag, name="mlp")(_norm("norm2")(x))
        return checkpoint_name(x, self.tag)


class Attention(nn.Module):
    """Self-attention, ``softmax(q k^T / sqrt(d / heads)) v`` for every head, then a dense layer."""

    heads: int
    tag: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps tokens [b, t, d] to tokens of the same shape."""
        width = x.shape[-1]

        def project(name: str) -> Any:
            return rearrange(_dense(width, name)(x), "b t (heads dim) -> b t heads dim", heads=self.heads)

        query, key, value = project("query"), project("key"), project("value")
        key = checkpoint_name(key, f"{self.tag}/keys")
        # Written out rather than fused, so that the probabilities exist and can be read, gated and pruned.
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(width // self.heads)
        attention = checkpoint_name(nn.softmax(logits), f"{self.tag}/attention")
        mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, value)
        return _dense(width, "output")(rearrange(mixed, "b t heads dim -> b t (heads dim)"))


class MLP(nn.Module):
    """Two dense layers about a GELU, four times as wide inside."""

    tag: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps tokens [b, t, d] to tokens of the same shape."""
        width = x.shape[-1]
        units = nn.gelu(_dense(4 * width, "hidden")(x), approximate=False)
        units = checkpoint_name(units, f"{self.tag}/units")
        return _dense(width, "output")(units)


def _dense(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=NORMAL, name=name)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, name=name)
