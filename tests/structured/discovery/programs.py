"""Random networks: a dozen steps of every kind, of fixed widths, on values [b, t, c]."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxprune as jp

TOKENS, WIDTHS = 4, (4, 6, 8)


class Maker:
    """Draws steps, and with them the parameters that they need."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.params = {}
        self.used = 0

    def leaf(self, *shape):
        name = f"leaf{len(self.params):02d}"
        values = self.rng.normal(size=shape)
        self.params[name] = values / np.sqrt(shape[0]) if len(shape) > 1 else 0.5 + 0.3 * values
        return name

    def width(self):
        return int(self.rng.choice(WIDTHS))

    def dense(self, width, to=None):
        kernel, bias = self.leaf(width, to or width), self.leaf(to or width)
        act = [jax.nn.relu, jax.nn.sigmoid, jnp.tanh, lambda x: x][self.rng.integers(4)]
        return lambda p, x: act(x @ p[kernel] + p[bias])


def dense(m, c):
    to = m.width()
    return m.dense(c, to), to


def residual(m, c):
    inner = m.width()
    first, last = m.dense(c, inner), m.leaf(inner, c)
    return lambda p, x: x + first(p, x) @ p[last], c


def concatenated(m, c):
    grow = int(m.rng.integers(2, 5))
    more = m.dense(c, grow)
    return lambda p, x: jnp.concatenate([x, more(p, x)] if grow > 2 else [more(p, x), x], -1), c + grow


def gated_unit(m, c):
    inner = m.width()
    both = m.leaf(c, 2 * inner)

    def run(p, x):
        left, right = jnp.split(x @ p[both], 2, -1)
        return jax.nn.silu(left) * right

    return run, inner


def heads(m, c):
    number = 2
    scale, shift, sizes = m.leaf(number), m.leaf(c // number), m.rng.random() < 0.5

    def run(p, x):
        y = x.reshape(*x.shape[:2], number, c // number)
        y = y * p[scale][:, None] if sizes else y * p[shift]
        return jnp.tanh(y).reshape(x.shape)

    return run, c


def swapped(m, c):
    return lambda p, x: x.reshape(*x.shape[:2], 2, c // 2).swapaxes(2, 3).reshape(x.shape), c


def attention(m, c):
    number, size, fused = 2, int(m.rng.integers(2, 4)), m.rng.random() < 0.5
    wide = 3 * number * size
    kernels = [m.leaf(c, wide)] if fused else [m.leaf(c, wide // 3) for _ in range(3)]
    out, bias = m.leaf(wide // 3, c), m.leaf(wide)

    def run(p, x):
        y = jnp.concatenate([x @ p[kernel] for kernel in kernels], -1) + p[bias]
        q, k, v = (one.reshape(*x.shape[:2], number, size) for one in jnp.split(y, 3, -1))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), -1)
        return x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], -1) @ p[out]

    return run, c


def excited(m, c):
    squeeze, excite = m.dense(c, 3), m.leaf(3, c)
    return lambda p, x: x * jax.nn.sigmoid(squeeze(p, x.mean(1)) @ p[excite])[:, None], c


def pointed(m, c):
    look = m.leaf(c, 1)
    return lambda p, x: x * jax.nn.sigmoid(x @ p[look]), c


def grouped(m, c):
    kernel = m.leaf(1, c // 2, c)
    numbers = ("NWC", "WIO", "NWC")
    return (
        lambda p, x: lax.conv_general_dilated(
            x, p[kernel], (1,), "SAME", dimension_numbers=numbers, feature_group_count=2
        ),
        c,
    )


def depthwise(m, c):
    kernel = m.leaf(3, 1, c)
    numbers = ("NWC", "WIO", "NWC")
    return (
        lambda p, x: lax.conv_general_dilated(
            x, p[kernel], (1,), "SAME", dimension_numbers=numbers, feature_group_count=c
        ),
        c,
    )


def tied(m, c):
    kernel = m.leaf(c, m.width())
    return lambda p, x: jnp.tanh(x @ p[kernel]) @ p[kernel].T, c


def normalised(m, c):
    scale, kind = m.leaf(c), m.rng.integers(5)

    def run(p, x):
        if kind == 0:
            x = x - x.mean(-1, keepdims=True)
        elif kind == 1:
            x = x * lax.rsqrt(jnp.einsum("btc,btc->bt", x, x) + 1e-3)[..., None]
        elif kind == 2:
            x = jnp.einsum("bt,btc->btc", lax.rsqrt(jnp.einsum("btc,btc->bt", x, x) + 1e-3), x)
        elif kind == 3:
            x = jax.nn.softmax(x, -1)
        else:
            x = x / (1 + jnp.max(jnp.abs(x), -1, keepdims=True))
        return x * p[scale]

    return run, c


def by_group(m, c):
    """A normalisation over the half of the channels."""

    def run(p, x):
        y = x.reshape(*x.shape[:2], 2, c // 2)
        return (y / (1 + (y**2).mean(-1, keepdims=True))).reshape(x.shape)

    return run, c


def ordered(m, c):
    order = m.rng.permutation(c)
    return lambda p, x: x[..., order], c


def reversed_(m, c):
    return lambda p, x: x[..., ::-1] + (x if m.params and c == 6 else 0), c


def part(m, c):
    start = int(m.rng.integers(0, c - 3))
    return lambda p, x: x[..., start : start + 3], 3


def strided(m, c):
    return lambda p, x: x[..., ::2], -(-c // 2)


def padded(m, c):
    shift = m.leaf(c + 2)
    return lambda p, x: jnp.tanh(jnp.pad(x, ((0, 0), (0, 0), (1, 1))) + p[shift]), c + 2


def copied(m, c):
    return lambda p, x: jnp.repeat(x, 2, -1) if c < 6 else jnp.tile(x, (1, 1, 2)), 2 * c


def gram(m, c):
    """Channels against channels of another branch, and back."""
    other, size = m.dense(c, 3), m.leaf(3)
    return lambda p, x: jnp.einsum("btd,bdc->btc", other(p, x) * p[size], jnp.einsum("btd,btc->bdc", other(p, x), x)), c


def mixed(m, c):
    inner, outer = m.leaf(TOKENS, 5), m.leaf(5, TOKENS)
    return lambda p, x: x + (jnp.tanh(x.mT @ p[inner]) @ p[outer]).mT, c


def summed(m, c):
    return lambda p, x: lax.cumsum(x, axis=1) if c != 6 else lax.cumsum(x, axis=2), c


def weighed(m, c):
    """A kernel made of two leaves, as weight normalisation and LoRA have them."""
    kernel, scale, low, high = m.leaf(c, c), m.leaf(c), m.leaf(c, 2), m.leaf(2, c)
    return lambda p, x: x @ (p[kernel] * p[scale] + p[low] @ p[high]), c


def wrapped(m, c):
    run, to = dense(m, c)
    call = [jax.jit, jax.checkpoint][m.rng.integers(2)](run)
    return lambda p, x: call(p, x), to


def fixed_pattern(m, c):
    pattern = m.rng.normal(size=c)
    return lambda p, x: x * pattern + jnp.arange(c), c


KINDS = [
    dense,
    residual,
    concatenated,
    gated_unit,
    heads,
    swapped,
    attention,
    excited,
    pointed,
    grouped,
    depthwise,
    tied,
    normalised,
    by_group,
    ordered,
    reversed_,
    part,
    strided,
    padded,
    copied,
    gram,
    mixed,
    summed,
    weighed,
    wrapped,
    fixed_pattern,
]
# They need a width that is even.
EVEN = {heads, swapped, grouped, by_group}


def program(seed, steps=7):
    """A random network and images for it."""
    maker = Maker(seed)
    chain, width = [], 3
    for _ in range(steps):
        kinds = [kind for kind in KINDS if (kind not in EVEN or width % 2 == 0) and not (kind is copied and width > 8)]
        kinds = [kind for kind in kinds if kind is not part or width > 3]
        kind = dense if not chain else kinds[maker.rng.integers(len(kinds))]
        step, width = kind(maker, width)
        chain.append(step)
    flat = maker.rng.random() < 0.5
    head = maker.leaf(TOKENS * width if flat else width, 2)

    def apply(params, state, images):
        for step in chain:
            images = step(params, images)
        return (images.reshape(len(images), -1) if flat else images.mean(1)) @ params[head]

    return jp.Network(apply, maker.params), np.random.default_rng(seed).normal(size=(2, TOKENS, 3))
