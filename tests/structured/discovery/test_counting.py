"""Statistics recomputed over the units that are left: the function at the smaller width, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxprune as jp
from jaxprune.structured import Search, Traced, choosers, compact, criteria, discover, effects, gated, verify
from jaxprune.structured.discovery import counting, masking, proving
from jaxprune.structured.discovery.likeness import is_count
from tests.structured.discovery.comparing import measured, same
from tests.structured.networks import random_weights

RNG = np.random.default_rng(0)
WIDTH = 12
IMAGES = RNG.normal(size=(4, 1, 1, 6))
SHAPES = {"in": (6, WIDTH), "bias": (WIDTH,), "scale": (WIDTH,), "shift": (WIDTH,), "out": (WIDTH, 3)}
PARAMS = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
KEPT = np.arange(WIDTH) % 3 > 0
BATCH = {"image": IMAGES, "label": np.array([0, 1, 2, 0])}
LOSS = jp.losses.cross_entropy
RECOMPUTE = {"normalised": "recompute"}


def layernorm(h):
    return (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-6)


def layernorm_by_products(h):
    count = h.shape[-1]
    centred = h - jnp.einsum("bd->b", h)[:, None] / count
    return centred / jnp.sqrt(jnp.einsum("bd,bd->b", centred, centred) * (1 / count) + 1e-6)[:, None]


def rmsnorm(h):
    return h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6)


def rmsnorm_by_products(h):
    return h / jnp.sqrt(jnp.einsum("bd,bd->b", h, h) / h.shape[-1] + 1e-6)[:, None]


def looped(h):
    return lax.scan(lambda h, turn: (rmsnorm(jnp.sin(h) + turn), None), h, jnp.arange(2.0))[0]


def network(normalise, params=PARAMS):
    def apply(p, s, x):
        h = x.reshape(len(x), -1) @ p["in"] + p["bias"]
        return (normalise(h) * p["scale"] + p["shift"]) @ p["out"]

    return jp.Network(apply, params)


def narrow(params):
    return {name: leaf[KEPT] if name == "out" else leaf[..., KEPT] for name, leaf in params.items()}


WAYS = {
    "LayerNorm": layernorm,
    "LayerNorm by products": layernorm_by_products,
    "RMSNorm": rmsnorm,
    "RMSNorm by products": rmsnorm_by_products,
    "a softmax": jax.nn.softmax,
    "a norm": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
    "a number that is counted": lambda h: h * (h.sum(-1) / jnp.ones_like(h).sum(-1))[:, None],
    "in a loop": looped,
}


@pytest.mark.parametrize("name", WAYS)
def test_discover_recomputes_statistics_as_the_function_of_the_smaller_width_does(name):
    """Values and gradients; nothing of it without being asked."""
    net = network(WAYS[name])
    found = discover(net, IMAGES, **RECOMPUTE)
    assert [(group.name, group.size, group.recomputed) for group in found] == [("in", WIDTH, True)]
    small = compact(net, found, {"in": KEPT})
    same(measured(small, IMAGES), measured(network(WAYS[name], narrow(PARAMS)), IMAGES))
    assert not discover(net, IMAGES)


def _scaled(by):
    return lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True) * by


def _total(h):
    return h.sum(-1, keepdims=True)


def _weighted(h, numbers):
    return rmsnorm(h * numbers) * numbers.sum()


def _twice(h):
    return jnp.stack([h, jnp.sin(h)], 1)


REFUSED = {
    "a root": (_scaled(WIDTH**0.5), "a power of a sum over the units is multiplied by 3.4641"),
    "one over a root, before": (lambda h: layernorm(h * WIDTH**-0.5), "one over the root of their number, 12"),
    "one less": (lambda h: h / h.std(-1, ddof=1, keepdims=True), "divided by 11, which is not the number of what"),
    "shares": (
        lambda h: h * (h / WIDTH).sum(-1, keepdims=True),
        "not divided by their number meets what a number",
    ),
    "another number": (
        lambda h: h * (h.sum(-1, keepdims=True) * 0.3),
        "multiplied by 0.3, which is not one over the number",
    ),
    "two sums": (
        lambda h: h * ((h.sum(-1) + jnp.sin(h).sum(-1)) / 12)[:, None],
        "several sums over units are divided by 12",
    ),
    "out of a loop": (
        lambda h: h * lax.fori_loop(0, 2, lambda _, c: h.sum(-1), jnp.zeros(len(h)))[:, None] / WIDTH,
        "enters or leaves a loop or a branch",
    ),
    "a rule of its own": (lambda h: _ruled(h), "a sum or mean over the units"),
    "spread along the units": (
        lambda h: layernorm(h) * (jnp.arange(1.0 * len(h))[:, None] / WIDTH),
        "meets 0.0833333, one over 12, their number",
    ),
    "behind a rule of its own": (
        lambda h: h * (jax.nn.relu(h.sum(-1, keepdims=True)) / WIDTH),
        "a power of a sum over the units is divided by 12",
    ),
    "a product inside of a rule": (lambda h: layernorm(h) * _ruled_product(h, h), "inside of a derivative rule of"),
    "a product with shares": (
        lambda h: h * (h @ np.full((WIDTH, 1), 1 / WIDTH)),
        "weighted by an array of the program's own",
    ),
    "a sum of sums": (lambda h: h * (_twice(h).sum(-1).sum(-1) / (2 * WIDTH))[:, None], "divided by 24"),
    "a sum of roots": (
        lambda h: h * (jnp.sqrt((_twice(h) ** 2).sum(-1)).sum(-1) * 0.3)[:, None],
        "a power of a sum over the units is multiplied by 0.3",
    ),
    "part of a sum": (lambda h: h * _total(h)[:, :1] / (2 * WIDTH), "divided by 24"),
    "sums side by side": (
        lambda h: h * jnp.concatenate([_total(h), _total(h**2)], -1)[:, :1] / (2 * WIDTH),
        "several sums over units are divided by 24",
    ),
    "a maximum of a sum": (lambda h: h * jnp.maximum(_total(h), 0.1) / (2 * WIDTH), "divided by 24"),
    "a sum times a value": (lambda h: h * (_total(h) * h[:, :1] / (3 * WIDTH)), "divided by 36"),
    "a quarter of their number": (lambda h: h * (WIDTH * 0.25) / _total(jnp.abs(h)), "meets what a number multiplies"),
    "half of a root": (
        lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True) * (0.5 * WIDTH**0.5),
        "a power of a sum over the units is multiplied by 1.73",
    ),
    "a power of an array": (
        lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True) * jnp.power(jnp.asarray(h.shape[-1]), 0.5),
        "a power of a sum over the units is multiplied by 3.46",
    ),
    "a product of ones": (
        lambda h: h / _total(h * h) * jnp.ones(WIDTH).dot(jnp.ones(WIDTH)),
        "a power of a sum over the units is multiplied by 12",
    ),
    "one more for each": (lambda h: (h + 1) / (_total(jnp.abs(h)) + WIDTH), "meets 12, 12, their number"),
    "a logarithm": (lambda h: h - (jax.nn.logsumexp(h, -1, keepdims=True) - np.log(WIDTH)), "the logarithm of their"),
    "behind a product with weights": (lambda h: h * (_total(h) @ np.ones((1, 1)) * 0.3), "multiplied by 0.3"),
    "unknown numbers": (
        lambda h: h * jnp.tanh(_total(h)) * jax.random.normal(jax.random.key(0), (len(h), 1)),
        "cannot be worked out",
    ),
    "numbers along the units": (lambda h: _weighted(h, 1.5 + jnp.arange(WIDTH)), "different numbers of the program"),
    "a root out of a map": (
        lambda h: h + lax.map(lambda row: jnp.sqrt(jnp.sum(row**2, -1)), h)[:, None] / WIDTH**0.5,
        "enters or leaves a loop or a branch",
    ),
    "a root out of a branch": (
        lambda h: h + lax.cond(jnp.arange(2).sum() > 0, lambda h: _total(h**2) ** 0.5, _total, h) / WIDTH**0.5,
        "enters or leaves a loop or a branch",
    ),
    "one less in a coarse type": (
        lambda h: h * (_total(jnp.tile(h, 32).astype(jnp.bfloat16)) / (32 * WIDTH - 1)),
        "divided by 384",
    ),
    "a running sum": (lambda h: rmsnorm(jnp.cumsum(h, -1)), "cumsum along the units"),
}


LOOPS = {
    "into a map": lambda h, x: lax.map(lambda one: one / WIDTH, jnp.tanh(_total(h))),
    "out of a map": lambda h, x: lax.map(lambda row: jnp.tanh(row.sum(keepdims=True)), h) / WIDTH,
    "out of a branch": lambda h, x: (
        lax.cond(jnp.arange(2).sum() > 0, lambda h: jnp.tanh(_total(h)), lambda h: jnp.zeros((len(h), 1)), h) / WIDTH
    ),
    "in another turn": lambda h, x: lax.fori_loop(0, 2, lambda _, c: jnp.tanh(_total(h)) - c / WIDTH, x[:, :1]),
    "into a loop": lambda h, x: lax.fori_loop(0, 2, lambda _, c: jnp.tanh(c / WIDTH), jnp.tanh(_total(h))),
    "out of a loop": lambda h, x: lax.fori_loop(0, 2, lambda _, c: jnp.tanh(_total(h)), jnp.zeros((4, 1))) / WIDTH,
}


@pytest.mark.parametrize("name", LOOPS)
def test_discover_follows_statistics_through_loops_and_branches(name):
    """They are not spread along the units again, so that nothing but the walk says what they are made of."""

    def apply(p, s, x):
        x = x.reshape(len(x), -1)
        return x @ p["in"] @ p["out"] + LOOPS[name](x @ p["in"], x)

    found = discover(jp.Network(apply, {"in": PARAMS["in"], "out": PARAMS["out"]}), IMAGES, **RECOMPUTE)
    assert "meets 12, 12, their number" in found.fixed["in", 1]


def test_discover_keeps_units_whose_root_of_a_sum_is_scaled_before():
    def apply(p, s, x):
        h = x.reshape(len(x), -1) @ p["in"]
        return h @ p["out"] + jnp.sqrt(_total((h * 0.2) ** 2))

    found = discover(jp.Network(apply, {"in": PARAMS["in"], "out": PARAMS["out"]}), IMAGES, **RECOMPUTE)
    assert "not divided by their number meets what a number multiplies" in found.fixed["in", 1]


@jax.custom_jvp
def _ruled(h):
    return h - h.mean(-1, keepdims=True)


_ruled.defjvp(lambda given, moves: (_ruled(*given), _ruled(*moves)))


@jax.custom_jvp
def _ruled_product(left, right):
    return jnp.einsum("bd,bd->b", left, right)[:, None] / WIDTH


_ruled_product.defjvp(lambda given, moves: (_ruled_product(*given), _ruled_product(moves[0], given[1])))


@pytest.mark.parametrize("name", REFUSED)
def test_discover_keeps_units_where_a_number_of_them_cannot_be_followed(name):
    normalise, why = REFUSED[name]
    found = discover(network(normalise), IMAGES, **RECOMPUTE)
    assert not found
    assert why in found.fixed["in", 1]


MEANS = {
    "a reciprocal": lambda h: h - _total(h) * jnp.reciprocal(jnp.asarray(h.shape[-1], h.dtype)),
    "a power": lambda h: h - _total(h) * jnp.asarray(h.shape[-1], h.dtype) ** -1,
    "a size": lambda h: h - _total(h) / jnp.abs(jnp.asarray(h.shape[-1], h.dtype)),
    "a count": lambda h: h - _total(h) / jnp.count_nonzero(jnp.ones(h.shape[-1])),
    "a last place": lambda h: h - _total(h) / (jnp.arange(h.shape[-1])[-1] + 1),
    "many": lambda h: h - _total(h) * (jnp.full(120_000, 1.0 * h.shape[-1]) ** -1)[: len(h), None],
    "a maximum": lambda h: h / jnp.sqrt(jnp.maximum(_total(h * h), 1e-6) / h.shape[-1]),
    "a sum of sums": lambda h: h * (_twice(h).sum(-1).sum(-1) / h.shape[-1])[:, None],
    "a part": lambda h: h - jnp.tile(_total(h), 2)[:, :1] / h.shape[-1],
    "times a value": lambda h: h + _total(h) * jnp.sin(_total(jnp.sin(h)) / h.shape[-1]) / h.shape[-1],
}


@pytest.mark.parametrize("name", MEANS)
def test_compact_follows_a_mean_however_its_number_is_made(name):
    net = network(MEANS[name])
    small = compact(net, discover(net, IMAGES, **RECOMPUTE), {"in": KEPT})
    same(small(IMAGES), network(MEANS[name], narrow(PARAMS))(IMAGES))


COUNTS = {
    "itself": (12.0, 0, 12, True, np.float32, True),
    "one over it": (float(np.float32(1 / 12)), 2**-23, 12, False, np.float32, True),
    "one less": (11.0, 2**-23, 12, True, np.float32, False),
    "nearly": (12.000001, 2**-23, 12, True, np.float32, False),
    "one less, that is rounded to it": (300.0, 2**-7, 300, True, jnp.bfloat16, False),
}


@pytest.mark.parametrize("name", COUNTS)
def test_is_count_tells_a_number_from_its_neighbours(name):
    number, eps, count, divided, kind, told = COUNTS[name]
    assert is_count(np.array([number]), eps, count, divided, kind) is told


class Normed(nn.Module):
    """A convolution, three normalisations and a head; every width is written into it."""

    width: int = WIDTH

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.width, (2, 2))(x)
        x = nn.gelu(nn.LayerNorm()(x)) + nn.RMSNorm()(x)
        x = nn.GroupNorm(num_groups=1)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))
        return nn.Dense(3)(nn.LayerNorm()(x.mean((1, 2))))


def linen(width, variables=None):
    module, image = Normed(width), jax.ShapeDtypeStruct((1, 3, 3, 2), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return jp.Network.from_linen(module, variables or random_weights(shapes, 0), train={"train": True})


PICTURES = np.random.default_rng(1).normal(size=(3, 3, 3, 2))


def test_compact_is_the_module_built_at_the_smaller_width(tmp_path):
    """Flax, also in training, opened again, saved as a program, and cut once more."""
    net = linen(WIDTH)
    found = discover(net, PICTURES, **RECOMPUTE)
    assert [(group.size, group.recomputed) for group in found] == [(WIDTH, True)]
    small = compact(net, found, {found[0].name: KEPT})
    built = linen(int(KEPT.sum())).replace(params=small.params, state=small.state)
    same(measured(small, PICTURES), measured(built, PICTURES))

    def step(net):
        return jax.jit(net.train_apply)(net.params, net.state, PICTURES, {"dropout": jax.random.key(0)})

    same(step(small), step(built))
    shape = Traced.of(net, found).without({found[0].name: KEPT})
    opened = Traced.described(shape.describe(), net).network(small.params, small.state)
    assert opened.apply == small.apply
    jp.structured.save_program(tmp_path, small, PICTURES)
    same(jp.structured.load_program(tmp_path)(PICTURES), built(PICTURES))
    again = discover(small, PICTURES, **RECOMPUTE)
    least = compact(small, again, {again[0].name: np.arange(8) < 5})
    same(least(PICTURES), linen(5).replace(params=least.params, state=least.state)(PICTURES))


def test_proven_is_against_the_function_or_the_whole_program_where_statistics_are_recomputed(monkeypatch):
    net = linen(WIDTH)
    assert discover(network(layernorm), IMAGES, prove=True, **RECOMPUTE).proof == {"in": ""}
    found = discover(net, PICTURES, prove=True, **RECOMPUTE)
    assert found.proof == {found[0].name: proving.UNCHECKED}
    assert not found.proven
    assert f"Conv_0 is not proven: {proving.UNCHECKED}." in str(found).splitlines()
    assert str(found).splitlines()[-1] == "Statistics are recomputed: to remove units of Conv_0 is not to gate them."
    fixed = network(lambda h: h * (h.sum(-1) / 12)[:, None])  # twelve, whatever the width
    assert (
        "from those of the function at the smaller width"
        in discover(fixed, IMAGES, prove=True, **RECOMPUTE).unproven["in"]
    )
    # A divisor that is not followed where the network is cut, but is where it is masked.
    monkeypatch.setattr(masking, "counted", lambda number, value: value)
    found = discover(net, PICTURES[:, :2], prove=True, **RECOMPUTE)
    assert "from those of the whole network" in found.unproven["Conv_0"]


def test_proven_tells_functions_that_take_smaller_leaves_from_those_that_do_not():
    """Of two groups one runs through an array of a fixed width: the other is proven all the same."""
    names = {"other": PARAMS["in"], "end": PARAMS["out"]}

    def apply(p, s, x):
        x = x.reshape(len(x), -1)
        return layernorm(x @ p["in"]) @ p["out"] + layernorm((x @ p["other"]).reshape(len(x), WIDTH)) @ p["end"]

    net = jp.Network(apply, {"in": PARAMS["in"], "out": PARAMS["out"], **names})
    found = discover(net, IMAGES, prove=True, **RECOMPUTE)
    assert found.proof == {"in": "", "other": proving.UNCHECKED}
    assert [group.name for group in found.proven] == ["in"]
    with pytest.raises(ValueError, match="its counts are not checked"):
        compact(net, found, {"other": KEPT})
    unasked = discover(net, IMAGES, **RECOMPUTE)
    assert compact(net, unasked, {"other": KEPT}).params["end"].shape == (KEPT.sum(), 3)


def test_counts_note_nothing_unless_they_are_asked():
    assert discover(network(layernorm), IMAGES)._facts.counts is None
    found = discover(network(layernorm), IMAGES, **RECOMPUTE)
    assert found.is_recomputed
    assert isinstance(found._facts.counts, counting.Counts)


def _search(net, found):
    search = Search(
        criteria={"neurons": criteria.l2()},
        chooser=choosers.always("neurons"),
        tune=lambda network, parent, step, stage: network,
        scoring=[BATCH],
        image_shape=(1, 1, 6),
    )
    return list(search(Traced.of(net, found), net))


GATING = {
    "gated": lambda net, found: gated(net, found, {}),
    "factored": lambda net, found: jp.structured.factored(net, found, {}),
    "verify": lambda net, found: verify(net, found, IMAGES),
    "kl": lambda net, found: effects.kl()(net, found, jp.structured.ones(found), [BATCH]),
    "second_order": lambda net, found: effects.second_order(LOSS)(net, found, jp.structured.ones(found), [BATCH]),
    "activation": lambda net, found: criteria.activation()(net, found, jp.structured.ones(found), [BATCH]),
    "prune_jointly": lambda net, found: jp.structured.prune_jointly(net, found, [BATCH], 0.3),
    "fold": lambda net, found: jp.structured.fold(net, found, {"in": np.ones(WIDTH)}),
    "Search": _search,
}


@pytest.mark.parametrize("name", GATING)
def test_gated_refuses_units_that_a_statistic_is_recomputed_over(name):
    net = network(layernorm)
    with pytest.raises(ValueError, match="a statistic over those of in is recomputed over what is left"):
        GATING[name](net, discover(net, IMAGES, **RECOMPUTE))


def test_drop_units_takes_what_is_rated_by_weights_and_cut():
    net = network(layernorm)
    found = discover(net, IMAGES, **RECOMPUTE)
    gates = jp.structured.ones(found)
    book = jp.structured.account(Traced.of(net, found), net.params, net.state, (1, 1, 6))
    rated = criteria.l2()(net, found, gates, [])
    left = jp.structured.drop_units(found, gates, rated, book.macs, book.macs(gates) // 2)
    assert left is not None
    small = compact(net, found, left)
    assert jp.cost.macs(small, (1, 1, 6)) == book.macs(left)
    assert book.macs(left) <= book.macs(gates) // 2
