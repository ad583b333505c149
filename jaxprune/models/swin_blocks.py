"""What Swin-V2 is made of: attention inside shifted windows, its position bias, blocks, and merging of patches."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxprune.models.transformer_blocks import MLP, dense

# The hidden units of the network that makes the position bias, and the bound of the bias.
POSITION_UNITS = 512
POSITION_BOUND = 16.0
# Added to the logits of tokens that a shift has brought together.
APART = -100.0


class Block(nn.Module):
    """A block that normalises what it adds: ``x + norm1(attention(x))``, then ``x + norm2(mlp(x))``; one may be gone.

    Attributes:
      heads: the heads of the attention.
      hidden: the hidden units of the MLP.
      head_width: the dimensions of a head.
      window: height and width of a window, in tokens.
      shift: by how many tokens the windows are moved.
      tag: the name of its output.
    """

    heads: int
    hidden: int
    head_width: int
    window: int
    shift: int
    tag: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, d]`` to the same shape."""
        if self.heads:
            attention = Attention(self.heads, self.head_width, self.window, self.shift, self.tag, name="attention")
            x = x + checkpoint_name(norm("norm1")(attention(x)), f"{self.tag}/branch1")
        if self.hidden:
            branch = norm("norm2")(MLP(self.hidden, self.tag, name="mlp")(x))
            x = x + checkpoint_name(branch, f"{self.tag}/branch2")
        return checkpoint_name(x, self.tag)


class Attention(nn.Module):
    """Self-attention among the tokens of a window: ``softmax(scale cos(q, k) + position bias) v`` for every head.

    The map is padded with zeros to a multiple of the window.  As in torchvision, the padding can be attended to: its
    keys are zero, since keys have no bias, and its values are the bias of the values.
    """

    heads: int
    head_width: int
    window: int
    shift: int
    tag: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, d]`` to the same shape."""
        height, width, features = x.shape[1:]
        rows, columns = (math.ceil(size / self.window) * self.window for size in (height, width))
        # Where one window covers an axis, every token sees every other already.
        shift = tuple(0 if size == self.window else self.shift for size in (rows, columns))

        def padded(values: Any) -> Any:
            after = ((0, 0), (0, rows - height), (0, columns - width), *[(0, 0)] * (values.ndim - 3))
            return jnp.pad(values, after)

        def project(name: str, values: Any, bias: bool = True) -> Any:
            values = dense(self.heads * self.head_width, name, bias)(values)
            return rearrange(values, "b h w (heads dim) -> b h w heads dim", heads=self.heads)

        # Projected before the padding, which is zero before and after: so keys are tagged as a map, and count.
        key = padded(checkpoint_name(project("key", x, bias=False), f"{self.tag}/keys"))
        query, value = project("query", padded(x)), project("value", padded(x))
        query, key, value = (_windows(values, self.window, shift) for values in (query, key, value))
        logits = jnp.einsum("bnqhd,bnkhd->bnhqk", unit_vectors(query), unit_vectors(key))
        logits = self._biased(logits, regions(rows, columns, self.window, shift))
        attention = checkpoint_name(nn.softmax(logits), f"{self.tag}/attention")
        mixed = jnp.einsum("bnhqk,bnkhd->bnqhd", attention, value)
        mixed = _map(mixed, rows, self.window, shift)[:, :height, :width]
        mixed = checkpoint_name(mixed, f"{self.tag}/heads")
        return dense(features, "output")(rearrange(mixed, "b h w heads dim -> b h w (heads dim)"))

    def _biased(self, cosines: Any, places: np.ndarray) -> Any:
        """Scales the cosines ``[b, windows, heads, t, t]``, and adds the position bias and the mask."""
        # Kept as a logarithm, and the scale at 100 or below.
        scale = self.param("logit_scale", nn.initializers.constant(math.log(10.0)), (self.heads,), jnp.float32)
        scale = jnp.exp(jnp.minimum(scale, math.log(100.0)))
        bias = PositionBias(self.heads, self.window, name="position")(cosines.dtype)
        logits = cosines * scale[None, None, :, None, None] + bias[None, None]
        apart = places[:, :, None] != places[:, None, :]
        if not apart.any():
            return logits
        return logits + jnp.asarray(np.where(apart, APART, 0.0), logits.dtype)[None, :, None]


class PositionBias(nn.Module):
    """A bias for every pair of places in a window, a small network's function of how far they lie apart.

    Rows and columns apart, ``d``, enter as ``sign(d) log2(1 + 8 |d| / (window - 1)) / 3``.
    """

    heads: int
    window: int

    @nn.compact
    def __call__(self, dtype: Any) -> Any:
        """Makes the bias ``[heads, t, t]``, between 0 and 16, from offsets of this type."""
        hidden = nn.relu(dense(POSITION_UNITS, "hidden")(jnp.asarray(offsets(self.window), dtype)))
        table = POSITION_BOUND * nn.sigmoid(dense(self.heads, "output", bias=False)(hidden))
        return rearrange(table[pairs(self.window)], "q k heads -> heads q k")


class Merge(nn.Module):
    """Makes one token of two by two: a linear layer of the four, then a normalisation.  An odd map is padded."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Maps ``[b, h, w, d]`` to ``[b, h / 2, w / 2, 2 d]``, rounded up."""
        _, height, width, features = x.shape
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        # Column by column, as torchvision's weights expect them.
        x = rearrange(x, "b (h i) (w j) d -> b h w (j i d)", i=2, j=2)
        return norm("norm")(dense(2 * features, "reduction", bias=False)(x))


def norm(name: str) -> nn.LayerNorm:
    """Makes a LayerNorm over the features."""
    return nn.LayerNorm(epsilon=1e-5, name=name)


def unit_vectors(vectors: Any) -> Any:
    """Divides by the norm over the last axis; a vector shorter than 1e-12 has no direction, and becomes zero.

    >>> unit_vectors(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    square = jnp.sum(vectors**2, axis=-1, keepdims=True)
    # The padding's keys are zero.  Divided by a small number instead, they would have gradients of 1e12.
    long = square > 1e-24
    return vectors * jnp.where(long, jax.lax.rsqrt(jnp.where(long, square, 1.0)), 0.0)


def offsets(window: int) -> np.ndarray:
    """Lists rows and columns apart, ``[(2 window - 1)^2, 2]``, on a scale from -log2(9) / 3 to log2(9) / 3."""
    apart = np.arange(1 - window, window)
    scaled = np.sign(apart) * np.log2(1 + 8 * np.abs(apart) / (window - 1)) / 3
    return np.stack(np.meshgrid(scaled, scaled, indexing="ij"), axis=-1).reshape(-1, 2)


def pairs(window: int) -> np.ndarray:
    """Says for every pair of places in a window, query and key, which entry of ``offsets`` is theirs: ``[t, t]``.

    >>> pairs(2)[3]
    array([8, 7, 5, 4])
    """
    places = np.stack(np.divmod(np.arange(window**2), window), axis=-1)
    apart = places[:, None] - places[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def regions(rows: int, columns: int, window: int, shift: Sequence[int]) -> np.ndarray:
    """Numbers the parts of a moved map that were neighbours before, ``[windows, t]``: only they attend to each other.

    >>> regions(4, 2, 2, (1, 0))
    array([[0, 0, 0, 0],
           [1, 1, 2, 2]])
    """

    def parts(size: int, moved: int) -> np.ndarray:
        places = np.arange(size)
        return (places >= size - window).astype(int) + (places >= size - moved) if moved else np.zeros(size, int)

    numbers = 3 * parts(rows, shift[0])[:, None] + parts(columns, shift[1])[None]
    numbers = rearrange(numbers, "(m i) (n j) -> (m n) (i j)", i=window, j=window)
    return np.unique(numbers, return_inverse=True)[1].reshape(numbers.shape)


def _windows(values: Any, window: int, shift: Sequence[int]) -> Any:
    """Moves a map ``[b, rows, columns, heads, dim]`` and cuts it into windows ``[b, windows, t, heads, dim]``."""
    if any(shift):
        values = jnp.roll(values, (-shift[0], -shift[1]), axis=(1, 2))
    return rearrange(values, "b (m i) (n j) heads dim -> b (m n) (i j) heads dim", i=window, j=window)


def _map(values: Any, rows: int, window: int, shift: Sequence[int]) -> Any:
    """Puts windows back together, the inverse of ``_windows``."""
    sizes = {"m": rows // window, "i": window, "j": window}
    values = rearrange(values, "b (m n) (i j) heads dim -> b (m i) (n j) heads dim", **sizes)
    return jnp.roll(values, shift, axis=(1, 2)) if any(shift) else values
