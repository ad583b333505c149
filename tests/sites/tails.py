"""What may follow a site, and what is true of it: whether it is piecewise linear, and where the examples are."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxprune.sites.axes import Along
from tests.sites.oracle import normal

B = 3  # as many examples as tokens and as channels, in some: axes of one extent must not be confused
VECTOR, TOKENS, IMAGE, CUBE = (B, 5), (B, 4, 2), (B, 4, 4, 2), (B, B, B)
FIRST, SECOND, THIRD = Along(0), Along(1), Along(2)
ROWS = (B * 4, 2)  # tokens of all examples


@dataclass(frozen=True)
class Tail:
    """``linear`` and ``examples`` are what is to be proven.  ``truth``: what holds, where the proof gives up."""

    function: Any
    linear: bool
    examples: Along | None = FIRST
    shape: tuple[int, ...] = VECTOR
    truth: tuple[bool, Along | None] | None = None


def module(made, shape, *variables):
    """A Flax module with its parameters as constants."""
    tree = jax.eval_shape(made.init, jax.random.key(0), np.zeros(shape))
    values = jax.tree.map(lambda leaf: 0.5 + np.abs(normal(5, *leaf.shape)), tree)
    return lambda z: made.apply(values, z)


def _same_as_relu(derivative):
    """A function with the derivative of its own: f(x) = relu(x), f'(x) = derivative(x)."""

    @jax.custom_jvp
    def function(x):
        return jnp.maximum(x, 0)

    function.defjvp(lambda primals, tangents: (function(*primals), derivative(*primals) * tangents[0]))
    return function


def _passed_through(forward, returned):
    """A function whose rule passes the tangent through, and returns the value that it is told to."""

    @jax.custom_jvp
    def function(x):
        return forward(x)

    function.defjvp(lambda primals, tangents: (returned(function, *primals), tangents[0]))
    return function


def _quarters(x):
    return jnp.round(4 * x) / 4


rounded = _passed_through(_quarters, lambda function, x: function(x))
rounded_anew = _passed_through(_quarters, lambda function, x: _quarters(x))


def _own_backward(forward, backward):
    @jax.custom_vjp
    def function(x):
        return forward(x)

    function.defvjp(lambda x: (forward(x), x), lambda x, cotangent: (backward(x, cotangent),))
    return function


@jax.custom_jvp
def soft_sign(x):
    return jnp.sign(x)


soft_sign.defjvp(lambda primals, tangents: (soft_sign(*primals), (1 - jnp.tanh(primals[0]) ** 2) * tangents[0]))


def attention(z):
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", z, z), axis=-1)
    return jnp.einsum("bts,bsd->btd", weights, z)


def layer_norm(z, axis=-1):
    mean = z.mean(axis, keepdims=True)
    return (z - mean) * jax.lax.rsqrt(((z - mean) ** 2).mean(axis, keepdims=True) + 1e-3)


def squeeze_excite(z, gate):
    return z * gate(z.mean(axis=(1, 2), keepdims=True) @ normal(1, 2, 2))


def _shuffle(z):
    b, h, w, c = z.shape
    return z.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def _windows(z):
    """Attention windows as of Swin: examples and windows in one axis."""
    b, h, w, c = z.shape
    inside = z.reshape(b, 2, h // 2, 2, w // 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, h * w // 4, c)
    return jnp.cumsum(inside, axis=1).reshape(b, -1)


def _convolve(z, kernel, **options):
    dimensions = ("NHWC", "HWIO", "NHWC") if z.ndim == 4 else ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(
        z,
        kernel,
        **{"window_strides": (1,) * (z.ndim - 2), "padding": "SAME", "dimension_numbers": dimensions, **options},
    )


def _loop(body, z):
    return jax.lax.fori_loop(0, 2, lambda _, value: body(value), z)


def _scan(body, z):
    return jax.lax.scan(lambda carry, _: (body(carry), None), z, None, length=2)[0]


PIECEWISE_LINEAR = {
    "identity": lambda z: z,
    "relu": jax.nn.relu,
    "maximum": lambda z: jnp.maximum(z, 0),
    "minimum of branches": lambda z: jnp.minimum(2 * z, 1 - z),
    "where": lambda z: jnp.where(z > 0, z, 0.1 * z),
    "leaky relu": jax.nn.leaky_relu,
    "prelu": module(nn.PReLU(), VECTOR),
    "clip": lambda z: jnp.clip(z, -0.5, 0.5),
    "relu6": lambda z: jax.nn.relu6(3 * z),
    "hard tanh": jax.nn.hard_tanh,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "abs": jnp.abs,
    "crelu": lambda z: jnp.concatenate([jax.nn.relu(z), jax.nn.relu(-z)], axis=-1),
    "sign gate": lambda z: jnp.sign(z) * z,
    "step gate": lambda z: (z > 0) * z,
    "floor gate": lambda z: jnp.floor(2 * z) * z,
    "integer gate": lambda z: jnp.asarray(3 * z, jnp.int32) * z,
    "gate without gradient": lambda z: jax.lax.stop_gradient(jax.nn.sigmoid(z)) * z,
    "gate of the batch without gradient": lambda z: jax.lax.stop_gradient(jnp.tanh(z.mean(0))) * z,
    "above the mean of the batch": lambda z: jnp.where(z > z.mean(0), z, 0),
    "straight through round": lambda z: z + jax.lax.stop_gradient(jnp.round(z) - z),
    "modulo": lambda z: jnp.fmod(z, 0.7),
    "reduce_max": lambda z: z.max(axis=-1, keepdims=True),
    "reduce_min": lambda z: z.min(axis=-1, keepdims=True),
    "mean": lambda z: z.mean(axis=-1, keepdims=True),
    "mean absolute": lambda z: jnp.abs(z).mean(axis=-1, keepdims=True),
    "sort": lambda z: jnp.sort(z, axis=-1),
    "sort by another": lambda z: jax.lax.sort((jnp.abs(z), 2 * z), num_keys=1)[1],
    "weights in the order of another": lambda z: jax.lax.sort((z, normal(1, B, 5)), num_keys=1)[1] * z,
    "argsort": lambda z: jnp.take_along_axis(z, jnp.argsort(-z, axis=-1), axis=-1),
    "median": lambda z: jnp.median(z, axis=-1, keepdims=True),
    "top_k": lambda z: jax.lax.top_k(z, 2)[0],
    "take the largest": lambda z: jnp.take_along_axis(z, jnp.argmax(z, axis=-1)[:, None], axis=-1),
    "one hot of the largest": lambda z: jax.nn.one_hot(jnp.argmax(z, axis=-1), 5) * z,
    "cummax": lambda z: jax.lax.cummax(z, axis=1),
    "cumsum": lambda z: jnp.cumsum(z, axis=1),
    "maxout": lambda z: jnp.concatenate([z, -2 * z], axis=-1).reshape(B, 5, 2).max(axis=-1),
    "residual": lambda z: z + jax.nn.relu(z @ normal(1, 5, 5)),
    "two layers": lambda z: jax.nn.relu(jax.nn.relu(z @ normal(1, 5, 4)) @ normal(2, 4, 5)),
    "batch norm in evaluation": module(nn.BatchNorm(use_running_average=True), VECTOR),
    "dropout off": nn.Dropout(0.5, deterministic=True).bind({}).__call__,
    "concatenate": lambda z: jnp.concatenate([z, jax.nn.relu(z), np.ones((B, 1))], axis=1),
    "stack": lambda z: jnp.stack([z, jnp.abs(z)], axis=-1),
    "stack in front": lambda z: jnp.stack([z, jnp.abs(z)], axis=0)[1],
    "unstack": lambda z: jnp.maximum(*jnp.unstack(z, axis=-1)[:2]),
    "pad": lambda z: jnp.pad(z, ((0, 0), (1, 2)), constant_values=3.0),
    "gather": lambda z: z[:, np.array([3, 1, 1])],
    "first": lambda z: z[:, 0],
    "strided": lambda z: z[:, ::2],
    "dynamic slice": lambda z: jax.lax.dynamic_slice_in_dim(z, jnp.argmax(normal(1, 3)), 2, axis=1),
    "scatter add": lambda z: jnp.zeros((B, 7)).at[:, np.array([0, 2, 2, 6, 1])].add(z),
    "scatter set": lambda z: z.at[:, 1].set(0.5),
    "scatter in": lambda z: jnp.ones((B, 7)).at[:, np.array([0, 2, 3])].set(z[:, :3]),
    "update slice": lambda z: jax.lax.dynamic_update_slice_in_dim(z, z[:, :2] * 2, 3, axis=1),
    "tile": lambda z: jnp.tile(z, (1, 2)),
    "repeat": lambda z: jnp.repeat(z, 2, axis=1),
    "split": lambda z: jnp.maximum(*jnp.split(z[:, :4], 2, axis=1)),
    "roll": lambda z: jnp.roll(z, 2, axis=1),
    "flip": lambda z: jnp.flip(z, axis=1),
    "expand and squeeze": lambda z: jnp.squeeze(z[:, None, :, None], axis=(1, 3)),
    "transpose twice": lambda z: jax.nn.relu(z.T).T,
    "columns": lambda z: (normal(1, 4, 5) @ jnp.abs(z).T).T,
    "remat": jax.checkpoint(lambda z: jax.nn.relu(2 * z)),
    "remat of flax": nn.remat(nn.PReLU)().bind({"params": {"negative_slope": np.array(0.2)}}).__call__,
    "jit": jax.jit(lambda z: jax.jit(jax.nn.relu)(z - 1)),
    "vmap": jax.vmap(lambda row: jax.nn.relu(row)[row.argmax()] + jnp.sort(row)),
    "vmap of slices": lambda z: jax.vmap(lambda row, at: jax.lax.dynamic_slice(row, (at,), (2,)))(z, np.arange(B)),
    "vmap of columns": jax.vmap(jax.nn.relu, in_axes=1, out_axes=1),
    "custom_jvp relu": _same_as_relu(lambda x: jnp.where(x > 0, 1.0, 0.0)),
    "rounded, passed through by a rule": rounded,
    "piecewise constant derivative": _same_as_relu(lambda x: jnp.floor(3 * x)),
    "no derivative of a part": lambda z: z + jax.lax.stop_gradient(jnp.exp(z)) - jnp.round(z),
}

PIECEWISE_LINEAR_SHAPED = {
    "max pool": (partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)), IMAGE),
    "max pool that overlaps": (partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME"), IMAGE),
    "max pool 1d": (partial(nn.max_pool, window_shape=(2,)), TOKENS),
    "average pool": (partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2)), IMAGE),
    "average pool that overlaps": (partial(nn.avg_pool, window_shape=(3, 3), padding="SAME"), IMAGE),
    "global average": (lambda z: z.mean(axis=(1, 2)), IMAGE),
    "convolution": (lambda z: jax.nn.relu(_convolve(z, normal(1, 3, 3, 2, 3), window_strides=(2, 2))), IMAGE),
    "depthwise": (lambda z: _convolve(jnp.abs(z), normal(1, 3, 3, 1, 4), feature_group_count=2), IMAGE),
    "convolution 1d": (lambda z: _convolve(z, normal(1, 3, 2, 3), rhs_dilation=(2,)), TOKENS),
    "convolution transposed": (
        lambda z: _convolve(z, normal(1, 2, 2, 2, 3), lhs_dilation=(2, 2), padding=[(1, 1), (0, 2)]),
        IMAGE,
    ),
    "channels first": (lambda z: jnp.abs(z.transpose(0, 3, 1, 2)).max(axis=(2, 3)), IMAGE),
    "resize": (lambda z: jax.image.resize(z, (B, 7, 6, 2), "linear"), IMAGE),
    "nearest": (lambda z: jax.image.resize(z, (B, 2, 8, 2), "nearest"), IMAGE),
    "pixel shuffle": (_shuffle, IMAGE),
    "flatten": (lambda z: jax.nn.relu(z.reshape(B, -1)), IMAGE),
    "reflect": (lambda z: jnp.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"), IMAGE),
    "mix tokens": (lambda z: jnp.einsum("btd,st->bsd", jax.nn.relu(z), normal(1, 3, 4)), TOKENS),
    "cls token": (lambda z: jnp.concatenate([np.ones((B, 1, 2)), z], axis=1)[:, 0:2], TOKENS),
    "cumsum of tokens": (lambda z: jnp.cumsum(z, axis=1), CUBE),
    "einsum of a cube": (lambda z: jnp.einsum("btd,btsd->bs", jax.nn.relu(z), normal(1, B, B, B, B)), CUBE),
    "batched matrices": (lambda z: jnp.einsum("btd,bde->bte", z, normal(1, B, B, B)), CUBE),
    "flatten a cube": (lambda z: jnp.abs(z).reshape(B, 9).reshape(B, 3, 3)[:, :, 0], CUBE),
    "vmap over tokens": (lambda z: jax.vmap(jnp.sort, in_axes=1, out_axes=1)(z), CUBE),
    "top tokens": (
        lambda z: jnp.take_along_axis(z, jax.lax.top_k(jnp.abs(z).sum(-1), 2)[1][:, :, None], axis=1),
        TOKENS,
    ),
}

SMOOTH = {
    # Its value has another derivative than the rule says: in the second derivative of the whole it is zero.
    "rounded anew, passed through by a rule": rounded_anew,
    "gelu": jax.nn.gelu,
    "exact gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "log sigmoid": jax.nn.log_sigmoid,
    "softmax": jax.nn.softmax,
    "log softmax": jax.nn.log_softmax,
    "logsumexp": lambda z: jax.nn.logsumexp(z, axis=-1, keepdims=True),
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "mish": jax.nn.mish,
    "squareplus": jax.nn.squareplus,
    "soft sign": jax.nn.soft_sign,
    "glu": lambda z: jax.nn.glu(z[:, :4]),
    "hard swish": jax.nn.hard_swish,
    "hard swish by hand": lambda z: z * jnp.clip(z + 3, 0, 6) / 6,
    "exponential branch": lambda z: jnp.where(z > 0, z, jnp.expm1(z)),
    "square": jnp.square,
    "cube": lambda z: z**3,
    "relu squared": lambda z: jax.nn.relu(z) ** 2,
    "power": lambda z: (jnp.abs(z) + 0.1) ** 1.5,
    "exp": jnp.exp,
    "sin": jnp.sin,
    "erf": jax.lax.erf,
    "sqrt": lambda z: jnp.sqrt(jnp.abs(z) + 0.1),
    "division": lambda z: 1 / (1 + jnp.abs(z)),
    "division by another": lambda z: z / (1 + jnp.abs(z[:, ::-1])),
    "product of two": lambda z: z * z[:, ::-1],
    "product of relus": lambda z: jax.nn.relu(z) * jax.nn.relu(z @ normal(1, 5, 5)),
    "square without one gradient is not linear": lambda z: z * z + jax.lax.stop_gradient(z),
    "prod": lambda z: z.prod(axis=-1, keepdims=True),
    "cumprod": lambda z: jnp.cumprod(z, axis=-1),
    "variance": lambda z: z.var(axis=-1, keepdims=True),
    "norm": lambda z: jnp.linalg.norm(z, axis=-1, keepdims=True),
    "cosine": lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True),
    "layer norm": module(nn.LayerNorm(), VECTOR),
    "layer norm by hand": layer_norm,
    "rms norm": module(nn.RMSNorm(), VECTOR),
    "exponential of a sort": lambda z: jnp.exp(jnp.sort(z, axis=-1)),
    "square of a sort": lambda z: jnp.sort(z, axis=-1) ** 2,
    "weighted sort": lambda z: jnp.sort(z, axis=-1) * jnp.argmax(z) * z,
    "largest times all": lambda z: z * z.max(axis=-1, keepdims=True),
    "remat": jax.checkpoint(jnp.tanh),
    "jit": jax.jit(jax.jit(jnp.tanh)),
    "relu with a sigmoid rule": _same_as_relu(jax.nn.sigmoid),
    "sign with a tanh rule": soft_sign,
    "gate with a tanh rule": lambda z: soft_sign(z) * z,
    "huber": lambda z: jnp.where(jnp.abs(z) < 0.5, z**2, jnp.abs(z) - 0.25),
}

SMOOTH_SHAPED = {
    "attention": (attention, TOKENS),
    "attention in a cube": (attention, CUBE),
    "squeeze and excitation": (partial(squeeze_excite, gate=jax.nn.sigmoid), IMAGE),
    "hard squeeze and excitation": (partial(squeeze_excite, gate=jax.nn.hard_sigmoid), IMAGE),
    "group norm": (module(nn.GroupNorm(num_groups=1), IMAGE), IMAGE),
    "instance norm": (partial(layer_norm, axis=(1, 2)), IMAGE),
    "layer norm of a cube": (layer_norm, CUBE),
    "softmax of tokens": (partial(jax.nn.softmax, axis=1), CUBE),
    "average of squares": (lambda z: nn.avg_pool(z**2, (2, 2)), IMAGE),
    "gram": (lambda z: jnp.einsum("btd,bte->bde", z, z), TOKENS),
}

# Examples meet, and that is to be seen.
MIXED = {
    "centred": Tail(lambda z: z - z.mean(axis=0), True, None),
    "rolled": Tail(lambda z: jnp.roll(z, 1, axis=0), True, None),
    "reversed": Tail(lambda z: z[::-1], True, None),
    "flipped": Tail(lambda z: jnp.flip(z), True, None),
    "permuted": Tail(lambda z: z[np.array([1, 2, 0])], True, None),
    "sorted": Tail(lambda z: jnp.sort(z, axis=0), True, None),
    "summed up": Tail(lambda z: jnp.cumsum(z, axis=0), True, None),
    "largest of all": Tail(lambda z: z + z.max(axis=0), True, None),
    "concatenated": Tail(lambda z: jnp.concatenate([z[1:], z[:1]]), True, None),
    "a matrix from the left": Tail(lambda z: normal(1, B, B) @ jax.nn.relu(z), True, None),
    "stacked": Tail(lambda z: jnp.stack([z[1], z[0], z[2] + z[1]]), True, None),
    "unstacked": Tail(lambda z: z + jnp.unstack(z)[1], True, None),
    "reshaped": Tail(lambda z: z.T.reshape(B, 5), True, None),
    "merged and summed up": Tail(lambda z: jnp.cumsum(z.reshape(-1)).reshape(B, 5), True, None),
    "shifted by padding": Tail(lambda z: jnp.pad(z, ((1, 0), (0, 0)))[:-1], True, None),
    "sliced": Tail(lambda z: z + z[:1], True, None),
    "dynamic": Tail(lambda z: z + jax.lax.dynamic_slice_in_dim(z, 1, 1, axis=0), True, None),
    "scattered": Tail(lambda z: jnp.zeros_like(z).at[np.array([2, 0, 0])].add(z), True, None),
    "updated": Tail(lambda z: jax.lax.dynamic_update_slice_in_dim(z, z[:1] * 2, 1, axis=0), True, None),
    "pooled": Tail(lambda z: nn.avg_pool(z[None, :, :], (2,), padding="SAME")[0], True, None),
    "max pooled": Tail(lambda z: nn.max_pool(z[None, :, :], (2,), padding="SAME")[0], True, None),
    "swapped by hand": Tail(lambda z: z + z.swapaxes(0, 1), True, None, CUBE),
    "batch for tokens": Tail(
        lambda z: _convolve(z.swapaxes(0, 1), normal(1, 2, B, 2)).swapaxes(0, 1), True, None, CUBE
    ),
    "batch for channels": Tail(lambda z: jnp.einsum("btd,be->etd", z, normal(1, B, B)), True, None, CUBE),
    "batch as groups": Tail(
        lambda z: _convolve(z.transpose(1, 2, 0), normal(1, 3, 1, B), feature_group_count=B).transpose(2, 0, 1),
        True,
        None,
        CUBE,
        truth=(True, FIRST),
    ),
    "products of examples": Tail(lambda z: z @ z.T, False, None),
    "softmax of the batch": Tail(lambda z: jax.nn.softmax(z, axis=0), False, None),
    "batch norm in training": Tail(
        lambda z: nn.BatchNorm(use_running_average=False, use_bias=False, use_scale=False).apply(
            {"batch_stats": {"mean": np.zeros(5), "var": np.ones(5)}}, z, mutable=["batch_stats"]
        )[0],
        False,
        None,
    ),
    "times the mean": Tail(lambda z: z * z.mean(axis=0), False, None),
    "attention to examples": Tail(lambda z: attention(z.swapaxes(0, 1)).swapaxes(0, 1), False, None, CUBE),
    "wrong axis of a cube": Tail(lambda z: layer_norm(z, axis=0), False, None, CUBE),
}

# The examples are along another axis of z: the network swaps them.
SWAPPED = {
    "swapped": Tail(lambda z: jax.nn.relu(z.swapaxes(0, 1)), True, SECOND, CUBE),
    "swapped to the back": Tail(lambda z: jnp.tanh(z.transpose(2, 0, 1)), False, THIRD, CUBE),
    "einsum swaps": Tail(lambda z: jnp.einsum("btd,de->tbe", z, normal(1, B, B)), True, SECOND, CUBE),
    "batched matrices swap": Tail(lambda z: jnp.einsum("btd,tde->tbe", z, normal(1, B, B, B)), True, SECOND, CUBE),
    "vmap swaps": Tail(jax.vmap(jnp.sort, in_axes=1, out_axes=0), True, SECOND, CUBE),
    "diagonal": Tail(lambda z: jnp.einsum("bbd->bd", z), True, SECOND, CUBE),
    "swapped twice": Tail(lambda z: jnp.cumsum(z.swapaxes(0, 1), axis=0).swapaxes(0, 1), True, FIRST, CUBE),
    "swapped and reshaped": Tail(lambda z: z.swapaxes(0, 1).reshape(B, 9) @ normal(1, 9, 4), True, SECOND, CUBE),
}

# The examples are merged with others in one axis: in z itself, or on the way to it.
FOLDED = {
    "rows of tokens": Tail(lambda z: jax.nn.relu(z).reshape(B, 4, 2), True, Along(0, after=4), ROWS),
    "rows, examples last": Tail(lambda z: jnp.tanh(z).reshape(4, B, 2).swapaxes(0, 1), False, Along(0, before=4), ROWS),
    "rows, examples between": Tail(
        lambda z: jnp.abs(z).reshape(2, B, 2, 2).swapaxes(0, 1), True, Along(0, before=2, after=2), ROWS
    ),
    "attention in rows": Tail(
        lambda z: (attention(z.reshape(B, 4, 2)).reshape(-1, 2) @ normal(1, 2, 4)).reshape(B, 16),
        False,
        Along(0, after=4),
        ROWS,
    ),
    "examples merged with features": Tail(lambda z: (2 * z.reshape(-1)).reshape(B, 5), True),
    "windows": Tail(_windows, True, FIRST, IMAGE),
    "windows of the other way round": Tail(
        lambda z: jnp.cumsum(z.transpose(1, 0, 2).reshape(2, 2 * B, 2), axis=0).reshape(4, B, 2).swapaxes(0, 1),
        True,
        FIRST,
        TOKENS,
    ),
    "sums of rows": Tail(lambda z: z.reshape(-1, 2).sum(axis=1).reshape(B, 4), True, FIRST, TOKENS),
    "rows that meet": Tail(lambda z: (z - z.mean(axis=0)).reshape(B, 8), True, None, ROWS),
    "rows that are rolled": Tail(lambda z: jnp.roll(z, 1, axis=0).reshape(B, 8), True, None, ROWS),
    "rows of other examples": Tail(
        lambda z: (z.reshape(-1, 2) + z.swapaxes(0, 1).reshape(-1, 2)).reshape(B, 8), True, None, TOKENS
    ),
}

# True, and not seen.  A change for the better has to be told here; one for the worse is a bug.
CONSERVATIVE = {
    "branch": Tail(lambda z: jax.lax.cond(z.sum() > 0, lambda z: z, lambda z: -z, z), True, None, truth=(True, FIRST)),
    "piecewise linear scan": Tail(partial(_scan, jax.nn.relu), False, None, truth=(True, FIRST)),
    "piecewise linear loop": Tail(partial(_loop, jax.nn.relu), False, None, truth=(True, FIRST)),
    "smooth scan": Tail(partial(_scan, jnp.tanh), False, None, truth=(False, FIRST)),
    "map": Tail(lambda z: jax.lax.map(jax.nn.relu, z), False, None, truth=(True, FIRST)),
    "rows that are reversed and turned back": Tail(
        lambda z: (2 * z.reshape(-1)[::-1])[::-1].reshape(B, 5), True, None, truth=(True, FIRST)
    ),
    "indices of the examples": Tail(lambda z: z[np.arange(B), np.array([0, 2, 1])], True, None, truth=(True, FIRST)),
    "fourier": Tail(lambda z: jnp.fft.fft(z, axis=1).imag, True, None, truth=(True, FIRST)),
    "linear by cancellation": Tail(lambda z: (z + 1) ** 2 - z**2, False, truth=(True, FIRST)),
    "derivative of itself": Tail(lambda z: jnp.exp(jnp.log(jnp.abs(z) + 1)), False, truth=(True, FIRST)),
    "complex": Tail(lambda z: jax.nn.relu(jnp.real(z * (1 + 2j))), True, None, truth=(True, FIRST)),
    "barrier": Tail(lambda z: jax.nn.relu(jax.lax.optimization_barrier(z)), True, None, truth=(True, FIRST)),
    "solve": Tail(
        lambda z: jnp.linalg.solve(np.eye(5) + 0.1 * normal(1, 5, 5), z.T).T, False, None, truth=(True, FIRST)
    ),
    "a rule that says its value again": Tail(_passed_through(jnp.abs, lambda _, x: x + 0), False, truth=(True, FIRST)),
    "own backward pass, the right one": Tail(
        _own_backward(jax.nn.relu, lambda x, u: jnp.where(x > 0, u, 0)), False, None, truth=(True, FIRST)
    ),
}

# The backward pass is the user's: the Hessian is that of what the function does forward, through the gradient that the
# user gave, and the two need not fit.
OWN_BACKWARD = {
    "rounded, passed through": Tail(_own_backward(jnp.round, lambda x, u: u), False, None, truth=(False, FIRST)),
    "clipped gradient": Tail(
        _own_backward(lambda x: x, lambda x, u: jnp.clip(u, -1e-2, 1e-2)), False, None, truth=(False, FIRST)
    ),
    "shifted gradient": Tail(_own_backward(lambda x: x, lambda x, u: u + 1), False, None),
    "filled gradient": Tail(_own_backward(lambda x: x, lambda x, u: jnp.where(np.arange(5) > 2, u, 1.0)), False, None),
    "gradient by its norm": Tail(
        _own_backward(lambda x: x, lambda x, u: u / jnp.linalg.norm(u)), False, None, truth=(False, FIRST)
    ),
    "centred gradient": Tail(_own_backward(lambda x: x, lambda x, u: u - u.mean(0)), False, None),
    "square, passed through": Tail(_own_backward(jnp.square, lambda x, u: u), False, None, truth=(False, FIRST)),
    "in a loop": Tail(partial(_scan, _own_backward(jnp.round, lambda x, u: u)), False, None, truth=(False, FIRST)),
    "in a branch": Tail(
        lambda z: jax.lax.cond(True, _own_backward(jnp.round, lambda x, u: u), lambda z: z, z),
        False,
        None,
        truth=(False, FIRST),
    ),
    "in jit and remat": Tail(
        jax.checkpoint(jax.jit(_own_backward(jnp.round, lambda x, u: u))), False, None, truth=(False, FIRST)
    ),
}

TAILS = {
    **{f"linear: {name}": Tail(function, True) for name, function in PIECEWISE_LINEAR.items()},
    **{f"linear: {name}": Tail(one, True, shape=shape) for name, (one, shape) in PIECEWISE_LINEAR_SHAPED.items()},
    **{f"smooth: {name}": Tail(function, False) for name, function in SMOOTH.items()},
    **{f"smooth: {name}": Tail(one, False, shape=shape) for name, (one, shape) in SMOOTH_SHAPED.items()},
    **{f"mixed: {name}": tail for name, tail in MIXED.items()},
    **{f"swapped: {name}": tail for name, tail in SWAPPED.items()},
    **{f"folded: {name}": tail for name, tail in FOLDED.items()},
    **{f"conservative: {name}": tail for name, tail in CONSERVATIVE.items()},
    **{f"own backward: {name}": tail for name, tail in OWN_BACKWARD.items()},
}

# A derivative rule after them does not belong to the values, or nobody says that it does.
INCONSISTENT = {
    *(f"own backward: {name}" for name in OWN_BACKWARD),
    "conservative: own backward pass, the right one",
    "conservative: a rule that says its value again",
    "conservative: solve",
    "smooth: rounded anew, passed through by a rule",
}
