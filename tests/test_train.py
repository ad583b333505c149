import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich
import rich.console
import rich.progress
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from tests import haste
from tests.train.tiny import apply, copied, data, fit, mask_of, network, rows, same, steps_in, train_apply

# --------------------------------------------------------------------------------------------------- the laws


def test_fit_lowers_the_loss_and_logs_it(tmp_path):
    loss = jp.evaluate.transfer.mean_loss(jp.losses.cross_entropy, [data()])
    trained = fit(network(), optax.adam(0.05), steps=60, folder=tmp_path, log_every=10)
    assert loss(trained)["loss"] < 0.3 * loss(network())["loss"]
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == [10, 20, 30, 40, 50, 60]
    assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]
    assert set(logged[0]) == {"step", "loss", "gradient_norm"}


def test_fit_keeps_pruned_weights_exactly_zero_under_adamw():
    net = network()
    mask = mask_of(net.params)
    tx = jp.optim.with_mask(optax.adamw(0.05, weight_decay=0.1), mask)
    trained = fit(net.replace(params=jp.masks.apply(mask, net.params)), tx)
    for keep, leaf, old in zip(*map(jax.tree.leaves, (mask, trained.params, net.params)), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf)[~np.asarray(keep)], 0.0)
        assert np.all(np.asarray(leaf)[np.asarray(keep)] != np.asarray(old)[np.asarray(keep)])


def test_fit_makes_pruned_weights_zero_even_where_they_started_elsewhere():
    net = network()
    mask = mask_of(net.params)
    trained = fit(net, jp.optim.with_mask(optax.sgd(0.1), mask), steps=1)
    for keep, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(trained.params), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf)[~np.asarray(keep)], 0.0)


def test_fit_leaves_network_mask_and_data_of_the_caller_alive():
    net, examples = network(), data()
    mask = mask_of(net.params)
    before = copied((net, mask, examples))
    fit(net, jp.optim.with_mask(optax.adam(0.1), mask), examples)
    same((net, mask, examples), before)


def test_step_is_the_gradient_step():
    net, batch = network(), {**data(8), "weight": np.linspace(0, 1, 8, dtype=np.float32)}
    slope = jp.curvature.gradient(net, jp.losses.cross_entropy, batch)
    expected = copied(jax.tree.map(lambda w, g: w - 0.1 * g, net.params, slope))
    tx = optax.sgd(0.1)
    optimizer = tx.init(net.params)
    got, _, metrics = jp.train.step(
        jax.tree.map(jnp.array, net),
        optimizer,
        batch,
        jax.random.key(0),
        loss=jp.losses.cross_entropy,
        update=tx.update,
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got.params, expected)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(slope), rtol=1e-5)
    assert bool(metrics["finite"])


def test_fit_updates_the_state_by_train_apply_alone():
    net = network()
    assert int(fit(net, optax.sgd(0.1)).state["steps"]) == 0
    assert int(fit(net.replace(train_apply=train_apply), optax.sgd(0.1)).state["steps"]) == 12


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(images.reshape(len(images), -1)))


def moved(net, trained):
    return [bool(np.any(np.asarray(a != b))) for a, b in zip(*map(jax.tree.leaves, (net, trained)), strict=True)]


def normalised(train):
    module = Normalised()
    return jp.Network.from_linen(module, jax.jit(module.init)(jax.random.key(0), data()["image"][:1]), train=train)


@pytest.mark.parametrize(("train", "moves"), [({}, False), ({"train": True}, True)])
def test_fit_moves_batch_statistics_in_training_mode_alone(train, moves):
    net = normalised(train)
    trained = fit(net, optax.sgd(0.1), steps=2)
    assert moved(net.state, trained.state) == [moves, moves]
    assert all(moved(net.params["Dense_0"], trained.params["Dense_0"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))


def test_fit_warns_of_batch_statistics_that_nothing_moves():
    net = normalised(None)
    with pytest.warns(UserWarning, match=r"network: its state has BatchNorm stat.*train=\{\"train\": True\}") as said:
        trained = fit(net, optax.sgd(0.1), steps=2)
    assert len(said) == 1
    assert not any(moved(net.state, trained.state))
    head = jp.Network(lambda params, state, x: x @ params["w"], {"w": jnp.ones((3, 3))})
    fit(jp.evaluate.transfer.with_head(named(net), head), optax.sgd(0.1), steps=1)  # frozen on purpose: not a word


def named(net):
    return jp.Network(lambda p, s, x: checkpoint_name(net.apply(p, s, x), "features"), net.params, net.state)


def test_recalibrate_replaces_statistics_by_those_of_the_batches_and_nothing_else():
    net, batches = normalised({"train": True}), [data(16), data(16, seed=1)]
    got = jp.train.recalibrate(net, batches, jax.random.key(0))
    dense = net.params["Dense_0"]
    hidden = [one["image"].reshape(16, -1) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]) for one in batches]
    statistics = got.state["batch_stats"]["BatchNorm_0"]
    for name, measure in (("mean", np.mean), ("var", np.var)):
        expected = np.mean([measure(one, axis=0) for one in hidden], axis=0)
        np.testing.assert_allclose(statistics[name], expected, rtol=1e-4, atol=1e-5)
    same(got.params, net.params)


def test_recalibrate_measures_with_what_training_leaves_alone():
    """An attention mask is no statistic, and was taken for zero while the others were measured."""

    def train_apply(params, state, images, rngs):
        hidden = jax.nn.softmax(images.reshape(len(images), -1) + state["mask"])
        average = 0.9 * state["average"] + 0.1 * jnp.mean(hidden, axis=0)
        return apply(params, {}, images), {"average": average, "mask": state["mask"]}

    mask = np.array([0, -np.inf, 0.1, np.finfo(np.float32).min], np.float32)
    net = network().replace(train_apply=train_apply, state={"average": jnp.ones(4), "mask": jnp.asarray(mask)})
    batches = [data(8, seed) for seed in range(3)]
    got = jp.train.recalibrate(net, batches, jax.random.key(0)).state
    np.testing.assert_array_equal(got["mask"], mask)
    powers = [np.exp(batch["image"].reshape(8, -1) + mask) for batch in batches]
    expected = np.mean([power / power.sum(axis=1, keepdims=True) for power in powers], axis=(0, 1))
    np.testing.assert_allclose(got["average"], expected, rtol=1e-5)


def test_recalibrate_cuts_padding_off_and_counts_every_image_once():
    net, images = normalised({"train": True}), data(11)
    batches = list(jp.data.Batches(images, 8))
    assert batches[1]["weight"].tolist() == [1] * 3 + [0] * 5
    parts = [{name: values[rows] for name, values in images.items()} for rows in (slice(8), slice(8, None))]
    empty = {**data(8, seed=1), "weight": np.zeros(8)}
    got, padded = (
        jp.train.recalibrate(net, given, jax.random.key(0)).state["batch_stats"]["BatchNorm_0"]
        for given in (parts, [*batches, empty])
    )
    same(padded, got)
    hidden = images["image"].reshape(11, -1) @ np.asarray(net.params["Dense_0"]["kernel"])
    np.testing.assert_allclose(got["mean"], hidden.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_recalibrate_needs_statistics_images_and_no_weights_but_of_padding():
    net = network().replace(train_apply=train_apply)
    with pytest.raises(ValueError, match="network: expected a train_apply"):
        jp.train.recalibrate(network(), [data()], jax.random.key(0))
    weights = np.array([0.5, 2, 0], np.float32)
    with pytest.raises(ValueError, match=r"batches: expected weights of 0, for .* but got 0\.5 and 2\. Leave 'weight'"):
        jp.train.recalibrate(net, [{**data(3), "weight": weights}], jax.random.key(0))
    for nothing in ([], [{**data(3), "weight": 0 * weights}]):
        with pytest.raises(ValueError, match="batches: expected at least one batch with an image"):
            jp.train.recalibrate(net, nothing, jax.random.key(0))


def test_recalibrate_averages_beyond_the_range_of_half_precision():
    net = jp.Network(
        lambda params, state, images: images,
        {},
        {"mean": jnp.zeros(1, jnp.float16)},
        lambda params, state, images, rngs: (
            images,
            {"mean": (0.9 * state["mean"] + 0.1 * images.mean(0)).astype(jnp.float16)},
        ),
    )
    batches = [{"image": jnp.full((1024, 1), value, jnp.float16)} for value in (100.0, 101.0)]
    found = jp.train.recalibrate(net, batches, jax.random.key(0)).state["mean"]
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(found, [100.5], rtol=0.02)  # a tenth of what rounds in half precision


def test_recalibrate_refuses_weights_that_differ_between_batches():
    net = jp.Network(
        lambda params, state, images: images,
        {},
        {"mean": jnp.zeros(1)},
        lambda params, state, images, rngs: (images, {"mean": 0.9 * state["mean"] + 0.1 * images.mean(0)}),
    )
    batches = [{"image": jnp.ones((2, 1)), "weight": jnp.full(2, weight)} for weight in (1.0, 3.0)]
    with pytest.raises(ValueError, match="weights of 0, for padding, and one other"):
        jp.train.recalibrate(net, batches, jax.random.key(0))


def test_recalibrate_refuses_what_is_no_average():
    """A statistic that the training step normalises by, as some libraries' BatchNorm does, would come out wrong."""

    def train_apply(params, state, images, rngs):
        hidden = images.reshape(len(images), -1) / (1 + state["norm"])
        sources = {"average": hidden, "norm": jnp.abs(images.reshape(len(images), -1))}
        rules = {name: 0.9 * state[name] + 0.1 * jnp.mean(source, axis=0) for name, source in sources.items()}
        return apply(params, {}, images), {**rules, "halves": state["halves"]}

    state = {"average": jnp.ones(4), "norm": jnp.ones(4), "halves": jnp.arange(2)}
    with pytest.raises(ValueError, match=r"network: expected statistics s that .* another rule for average\. In its"):
        jp.train.recalibrate(network().replace(train_apply=train_apply, state=state), [data()], jax.random.key(0))


def test_step_is_traced_once_for_all_steps_masks_seeds_and_networks():
    traces = []

    def counting(outputs, batch):
        traces.append(1)
        return jp.losses.cross_entropy(outputs, batch)

    tx = optax.adamw(optax.cosine_decay_schedule(0.1, 10))
    for seed in range(3):
        net = network()
        wrapped = jp.optim.with_mask(tx, mask_of(net.params, seed))
        jp.train.fit(net, counting, wrapped, data(seed=seed), steps=9, batch_size=8, seed=seed)
    assert len(traces) == 1


# ------------------------------------------------------------------------------------------- what is not finite


class FailingLater(dict):
    """Data whose images turn to NaN, or that call something, when the batch of a step is made."""

    def __init__(self, at: int, action: Any) -> None:
        super().__init__(data())
        self.turn, self.at, self.action = 0, at, action

    def get(self, key: str, default: Any = None) -> Any:  # asked for "weight" once for every batch
        if key == "weight":
            if self.turn == self.at:
                self.action(self)
            self.turn += 1
        return super().get(key, default)


def poison(examples: dict[str, Any]) -> None:
    examples["image"] = np.full_like(examples["image"], np.nan)


def finite(tree: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))


def newest(folder: Path, net: jp.Network, tx: Any) -> tuple[int, Any]:
    found = jp.checkpoint.restore(folder, (net, tx.init(net.params)))
    assert found is not None
    return found


@pytest.mark.parametrize("save_every", [1, 3])
def test_fit_stops_within_a_step_of_nan_in_the_data_and_keeps_what_was_saved(tmp_path, save_every):
    examples, tx, net = FailingLater(7, poison), optax.adam(0.01), network()
    with pytest.raises(
        FloatingPointError, match=r"loss: step 8 gave loss nan .* it was not taken, .* Lower the learning"
    ):
        fit(net, tx, examples, folder=tmp_path, save_every=save_every, log_every=1)
    assert examples.turn <= 9
    step, (restored, optimizer) = newest(tmp_path, net, tx)
    assert step == (7 if save_every == 1 else 6)
    assert finite((restored, optimizer))
    same(restored, fit(net, tx, steps=step))
    assert all(np.isfinite([row["loss"], row["gradient_norm"]]).all() for row in rows(tmp_path))


def test_fit_refuses_nan_in_the_very_last_step(tmp_path):
    with pytest.raises(FloatingPointError, match="step 12 gave loss nan"):
        fit(network(), optax.adam(0.01), FailingLater(11, poison), folder=tmp_path)
    assert steps_in(tmp_path) == []


@pytest.mark.parametrize("rate", [1e20, 1e38, float("inf")])
def test_fit_stops_at_a_huge_learning_rate_with_a_finite_newest_checkpoint(tmp_path, rate):
    tx, net = optax.sgd(rate), network()
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        fit(net, tx, folder=tmp_path, save_every=1)
    if steps_in(tmp_path):
        assert finite(newest(tmp_path, net, tx)[1])


@pytest.mark.parametrize(
    "tx", [optax.sgd(float("inf")), optax.scale(float("nan"))], ids=["infinite rate", "NaN updates"]
)
def test_fit_refuses_weights_that_become_not_finite_in_the_last_step(tx):
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(network(), tx, steps=1)


@pytest.mark.parametrize("train", [None, train_apply])
def test_step_that_is_not_finite_changes_nothing(train):
    net = network().replace(train_apply=train)
    tx = jp.optim.with_mask(optax.adam(0.1), mask_of(net.params))
    state = (net, tx.init(net.params))
    before = copied(state)
    batch = data(8)
    batch["image"][3] = np.nan
    *after, metrics = jp.train.step(*state, batch, jax.random.key(0), loss=jp.losses.cross_entropy, update=tx.update)
    same(tuple(after), before)
    assert not bool(metrics["finite"])


def test_step_keeps_no_trace_of_padding():
    net, tx = network(), optax.sgd(0.1)
    batch = {**data(8), "weight": np.array([1] * 6 + [0] * 2, np.float32)}
    batch["image"][6:] = 1e9
    results = []
    for one in (batch, {key: value[:6] for key, value in batch.items()}):
        state = jax.tree.map(jnp.array, (net, tx.init(net.params)))
        got, _, metrics = jp.train.step(*state, one, jax.random.key(0), loss=jp.losses.cross_entropy, update=tx.update)
        results.append((got.params, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def attention(state: Any) -> jp.Network:
    """A network that adds what its state holds to scores of attention."""

    def apply(params, state, images):
        scores = (images.reshape(len(images), -1) @ params["w"])[:, None] + state["mask"]
        return jax.nn.softmax(scores).mean(axis=1)

    return jp.Network(apply, {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}, state)


CAUSAL = {"mask": np.where(np.tri(3, dtype=bool), np.float32(0), np.float32(-np.inf))}


def clipped(learning_rate: Any, max_norm: Any) -> Any:
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.sgd(learning_rate))


def test_fit_takes_what_is_infinite_by_design(tmp_path):
    """r11 of the reports: -inf in the state, infinity among the hyperparameters."""
    large = {"mask": np.where(np.tri(3, dtype=bool), np.float32(0), np.float32(-1e30))}
    free = optax.inject_hyperparams(clipped)(learning_rate=0.1, max_norm=np.inf)
    trained = fit(attention(CAUSAL), free, steps=3, folder=tmp_path)
    expected = fit(attention(large), optax.sgd(0.1), steps=3)
    np.testing.assert_allclose(trained.params["w"], expected.params["w"], rtol=1e-6)
    same(trained.state, CAUSAL)
    found = jp.checkpoint.restore(tmp_path, (trained, free.init(trained.params)))
    assert found is not None
    same(found[1][0], trained)


def overflowing(params, state, images, rngs):
    del rngs
    return apply(params, {}, images), {"sum": state["sum"] * np.float32(1e30)}


def growing(factor: Any) -> Any:
    """A transformation whose state grows."""
    return optax.GradientTransformation(
        lambda params: {"size": jnp.ones(())}, lambda g, s, p=None: (g, {"size": s["size"] * factor})
    )


BLAMED = {
    "all -inf": (
        lambda: attention({"mask": np.full((3, 3), -np.inf, np.float32)}),
        optax.sgd(0.1),
        r"^loss: step 1 .*There was infinity in 'mask' of the state of the network before the training\. No step has",
    ),
    "NaN rate": (
        network,
        optax.inject_hyperparams(optax.sgd)(learning_rate=np.nan),
        r"^weights: step 1 gave loss \d.* infinity in 'bias'; .*There was NaN in 'hyperparams/learning_rate' of the",
    ),
    "huge rate": (
        network,
        optax.sgd(float("inf")),
        r"^weights: step 1 .* NaN or infinity in 'bias'; .* Lower the learning rate\.$",
    ),
    "state": (
        lambda: network().replace(train_apply=overflowing, state={"sum": jnp.ones((), jnp.float32)}),
        optax.sgd(0.1),
        r"^state: step 2 .* NaN or infinity in 'sum'; .*what train_apply makes of its state",
    ),
    "tx": (
        network,
        growing(np.float64(1e300)),
        r"^tx: step 2 .* NaN or infinity in 'size'; .*hyperparameters and the sch",
    ),
}


@pytest.mark.parametrize("cause", BLAMED)
def test_fit_blames_what_is_not_finite(cause):
    make, tx, message = BLAMED[cause]
    with pytest.raises(FloatingPointError, match=message) as raised:
        fit(make(), tx)
    assert ("Lower the learning rate" in str(raised.value)) == (cause in ("NaN rate", "huge rate"))


def test_fit_blames_a_gradient_that_is_not_finite():
    def steep(outputs, batch):
        return jnp.sqrt(jnp.sum(0 * outputs, axis=-1)) + jp.losses.cross_entropy(outputs, batch)

    with pytest.raises(
        FloatingPointError, match=r"^gradient: step 1 gave loss \d.* norm nan; .* No step has changed the"
    ):
        jp.train.fit(network(), steep, optax.sgd(0.1), data(), steps=2, batch_size=8, seed=0)


def test_step_breaks_nothing_where_infinity_turns_into_nan_only():
    breaks = jp.finite.breaks
    old = [np.array([value]) for value in (np.inf, np.inf, np.nan, 1.0, -np.inf)]
    new = [np.array([value]) for value in (np.inf, np.nan, np.nan, np.inf, np.inf)]
    np.testing.assert_array_equal(breaks(old, new), [False, True, False, True, True])


# ------------------------------------------------------------------------------------------------ transformations

ASKING = {
    "value": optax.polyak_sgd(0.5),
    "value in a chain": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    "value_fn": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    "obj_fn": optax.contrib.sophia(0.1),
    "all of these": optax.lbfgs(),
    "grad_fn": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), opaque_mode=True),
    "nothing": optax.scale(-0.1),
}


@pytest.mark.parametrize("asked", ASKING)
def test_fit_gives_a_transformation_what_it_asks_for(asked):
    net = network()
    mask = mask_of(net.params)
    trained = fit(net, jp.optim.with_mask(ASKING[asked], mask), steps=8, batch_size=30)
    loss = jp.evaluate.transfer.mean_loss(jp.losses.cross_entropy, [data()])
    assert loss(trained)["loss"] < loss(net.replace(params=jp.masks.apply(mask, net.params)))["loss"]
    for keep, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(trained.params), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf)[~np.asarray(keep)], 0)


def test_fit_takes_the_polyak_step():
    net, batch = network(), {key: value[:8] for key, value in data(8).items()}
    objective = lambda params: jnp.mean(jp.losses.cross_entropy(apply(params, {}, batch["image"]), batch))  # noqa: E731
    value, slope = jax.value_and_grad(objective)(net.params)
    length = float(value) / float(optax.tree.norm(slope)) ** 2
    trained = fit(net, optax.polyak_sgd(1e9), batch, steps=1)
    expected = jax.tree.map(lambda w, g: np.asarray(w) - length * np.asarray(g), net.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), trained.params, expected)


def asking_for_more(updates, state, params=None, *, teacher):
    return updates, state


def one_leaf() -> jp.Network:
    return attention({"mask": np.zeros((3, 3), np.float32)})


UNSERVED = {
    "two sets of weights": (
        network,
        optax.lookahead(optax.sgd(0.1), 2, 0.5),
        TypeError,
        "tx: .*optax.lookahead has two, fast",
    ),
    "single examples": (
        one_leaf,
        optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0),
        ValueError,
        r"tx: .*mean gradient of a batch .*its updates: at \['w'\] expected the shape \(4, 3\) of the parameters, but",
    ),
    "an argument": (
        network,
        optax.GradientTransformationExtraArgs(lambda params: (), asking_for_more),
        ValueError,
        "tx: .*asks for nothing but value, .*TypeError: asking_for_more.*'teacher'",
    ),
}


@pytest.mark.parametrize("wanted", UNSERVED)
def test_fit_refuses_before_training_a_transformation_that_it_cannot_serve(wanted, tmp_path):
    make, tx, error, message = UNSERVED[wanted]
    examples = FailingLater(0, lambda _: pytest.fail("a batch was made"))
    with pytest.raises(error, match=message):
        fit(make(), tx, examples, folder=tmp_path)


def test_fit_refuses_before_training_what_no_checkpoint_holds(tmp_path):
    noisy = optax.add_noise(0.1, 0.55, key=0)
    with pytest.raises(ValueError, match=r"state: 1/rng_key is empty or a PRNG key"):
        fit(network(), noisy, FailingLater(0, lambda _: pytest.fail("a batch was made")), folder=tmp_path)
    fit(network(), noisy, steps=1)


@pytest.mark.parametrize("value", [1.0, np.inf])
def test_fit_trains_dense_weights_under_a_mask_as_masked_ones(value):
    net = network()
    mask = mask_of(net.params)
    dense = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, jnp.float32(value)), mask, net.params)
    tx = jp.optim.with_mask(optax.lamb(0.05), mask)
    masked = fit(net.replace(params=jp.masks.apply(mask, net.params)), tx, steps=3)
    same(fit(net.replace(params=dense), tx, steps=3).params, masked.params)


# ------------------------------------------------------------------------------------- interruption and resume

# BatchNorm, dropout, a mask and weight decay: everything that a resume could forget.
RUN = """
import json, os, signal, sys
import jax, numpy as np, optax
from flax import linen as nn
import jaxprune as jp

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)

class Interrupted(dict):
    turns = 0
    def get(self, key, default=None):  # asked for "weight" once for every batch
        self.turns += key == "weight"
        if self.turns == self["at"]:
            os.kill(os.getpid(), self["signal"])
        return super().get(key, default)
    def items(self):
        return ((key, self[key]) for key in self.keys())
    def keys(self):
        return ("image", "label")
    def __iter__(self):
        return iter(self.keys())

def run(folder, at=0, number=0):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((30, 2, 2, 1)).astype(np.float32), rng.integers(3, size=30).astype(np.int32)
    module = Net()
    variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    net = jp.Network.from_linen(module, variables, train={"train": True})
    mask = jax.tree.map(lambda leaf: leaf > -0.1, net.params)
    tx = jp.optim.with_mask(optax.adamw(optax.cosine_decay_schedule(0.05, 20)), mask)
    data = Interrupted(image=images, label=labels, at=at, signal=number)
    jp.train.fit(net, jp.losses.cross_entropy, tx, data, steps=20, batch_size=8, seed=3, folder=folder, save_every=5,
                 log_every=1)

for words in sys.argv[1:]:
    folder, at, number = words.split(",")
    run(folder, int(at), int(number))
"""


def process(*runs: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    environment |= {"XLA_FLAGS": haste.FLAGS, "PYTHONHASHSEED": "random"}
    words = [sys.executable, "-c", RUN, *runs]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=900)


def manifest(folder: Path, step: int) -> str:
    return (folder / f"{step:08d}" / "manifest.json").read_text()


def test_fit_killed_twice_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    whole, again, broken = tmp_path / "whole", tmp_path / "again", tmp_path / "broken"

    first = process(f"{whole},0,0", f"{broken},7,{signal.SIGTERM.value}")
    assert first.returncode == 143, first.stderr
    assert steps_in(broken) == ["00000005", "00000007"]
    assert [row["step"] for row in rows(broken)] == list(range(1, 8))

    second = process(f"{broken},6,{signal.SIGKILL.value}")  # the batch of step 13 is never made
    assert second.returncode == -signal.SIGKILL, second.stderr
    assert steps_in(broken)[-1] == "00000010"

    third = process(f"{again},0,0", f"{broken},0,0")
    assert third.returncode == 0, third.stderr
    # A manifest holds the hash of every parameter, statistic, moment and mask.
    assert manifest(broken, 20) == manifest(whole, 20)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    # Two fresh processes agree as well.
    assert manifest(again, 20) == manifest(whole, 20)
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_fit_saves_at_sigterm_the_step_it_stops_after(tmp_path, monkeypatch):
    dumps, lines = json.dumps, []

    def late(row: Any, **options: Any) -> str:  # comes between the step and the end of the turn
        lines.append(row)
        if len(lines) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return dumps(row, **options)

    tx, net, before = optax.adam(0.01), network(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(json, "dumps", late)
    with pytest.raises(SystemExit) as stopped:
        fit(net, tx, folder=tmp_path, log_every=1)
    monkeypatch.undo()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert steps_in(tmp_path) == [f"{rows(tmp_path)[-1]['step']:08d}"]
    same(fit(net, tx, folder=tmp_path, log_every=1), fit(net, tx))
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 13))


def test_fit_drops_lines_of_steps_taken_again_and_half_lines(tmp_path):
    fit(network(), optax.adam(0.01), steps=6, folder=tmp_path, log_every=1)
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 7, "loss": 1.0, "gradient_norm": 1.0}\n{"step": 8, "lo')
    fit(network(), optax.adam(0.01), steps=9, folder=tmp_path, log_every=1)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 10))
    whole = tmp_path / "whole"
    fit(network(), optax.adam(0.01), steps=9, folder=whole, log_every=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_fit_loads_a_finished_run_and_does_not_train_it_again(tmp_path):
    tx = optax.adam(0.01)
    trained = fit(network(), tx, folder=tmp_path)
    untouched = FailingLater(0, poison)
    same(fit(network(), tx, untouched, folder=tmp_path), trained)
    assert untouched.turn == 0


def test_fit_resumes_past_a_damaged_checkpoint(tmp_path):
    tx = optax.adam(0.01)
    trained = fit(network(), tx, folder=tmp_path, save_every=5)
    (tmp_path / "00000012" / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match="00000012' is damaged"):
        again = fit(network(), tx, folder=tmp_path, save_every=5)
    same(again, trained)


def test_fit_refuses_a_checkpoint_of_a_later_step(tmp_path):
    fit(network(), optax.adam(0.01), folder=tmp_path, steps=3)
    with pytest.raises(ValueError, match=r"steps: .* holds step 3, beyond the 2 asked for"):
        fit(network(), optax.adam(0.01), folder=tmp_path, steps=2)


def test_fit_names_a_folder_that_cannot_be_written_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    untouched = FailingLater(0, poison)
    with pytest.raises(ValueError, match=r"folder: cannot write in '.*file/run' \(Not a directory\). Choose a folder"):
        fit(network(), optax.adam(0.01), untouched, folder=tmp_path / "file" / "run")
    assert untouched.turn == 0


@pytest.mark.parametrize("steps", [0, -1])
def test_fit_refuses_no_steps(steps):
    with pytest.raises(ValueError, match="steps: expected a whole number of 1 or more, but got"):
        fit(network(), optax.sgd(0.1), steps=steps)


@pytest.mark.parametrize("batch_size", [0, -8])
def test_fit_refuses_empty_batches(batch_size):
    with pytest.raises(ValueError, match="batch_size: expected a whole number of 1 or more, but got"):
        fit(network(), optax.sgd(0.1), batch_size=batch_size)


# --------------------------------------------------------------------------------------- images fetched in threads


class Files(jp.data.Source):
    """The examples of ``data`` as bytes that are fetched; at one of the fetches something happens."""

    name, classes = "files", ("a", "b", "c")

    def __init__(self, at: int | None = None, action: Any = None) -> None:
        examples = data()
        self.pixels = np.uint8(np.clip(128 + 60 * examples["image"], 0, 255))
        self.labels, self.turns, self.at, self.action = examples["label"], itertools.count(), at, action

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 2, 2, 1

    def images(self, indices: np.ndarray) -> np.ndarray:
        if next(self.turns) == self.at:
            self.action()
        return self.pixels[indices]

    def fingerprint(self) -> str:
        return "files:00"


def apply_to_bytes(params, state, images):
    return apply(params, state, images / jnp.float32(255))


def taking_bytes() -> jp.Network:
    return network().replace(apply=apply_to_bytes)


def streamed(source: Files) -> dict[str, Any]:
    return jp.data.stream(source, np.arange(30), workers=2)


def background() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jaxprune-ahead")]


def unreadable() -> None:
    raise ValueError("a/5.jpg: cannot be read as an image (truncated).")


def test_fit_on_a_stream_is_that_on_the_array_bit_for_bit(tmp_path):
    tx, source = optax.adam(0.01), Files()
    arrays = {"image": source.pixels, "label": source.labels}
    trained = fit(taking_bytes(), tx, arrays, folder=tmp_path / "arrays", log_every=1)
    same(fit(taking_bytes(), tx, streamed(source), folder=tmp_path / "stream", log_every=1), trained)
    assert rows(tmp_path / "stream") == rows(tmp_path / "arrays")
    assert manifest(tmp_path / "stream", 12) == manifest(tmp_path / "arrays", 12)
    assert background() == []
    # Whether a source holds what is in an array could be told by fetching all of it only.
    with pytest.raises(ValueError, match=r"arrays' holds a run with other data\. Choose"):
        fit(taking_bytes(), tx, streamed(source), folder=tmp_path / "arrays")


def test_fit_on_a_stream_stops_and_resumes_as_on_arrays(tmp_path):
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    tx = optax.adam(0.01)
    with pytest.raises(SystemExit):
        fit(taking_bytes(), tx, streamed(Files(27, stop)), steps=1000, folder=tmp_path)
    assert background() == []
    (stopped,) = steps_in(tmp_path)
    assert int(stopped) < 1000
    steps = int(stopped) + 3
    same(
        fit(taking_bytes(), tx, streamed(Files()), steps=steps, folder=tmp_path),
        fit(taking_bytes(), tx, streamed(Files()), steps=steps),
    )


def test_fit_stops_at_an_image_that_cannot_be_read_and_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"^a/5\.jpg: cannot be read"):
        fit(taking_bytes(), optax.adam(0.01), streamed(Files(27, unreadable)), folder=tmp_path, save_every=1)
    assert background() == []
    # Steps before that batch were taken, and are saved.
    assert 1 <= len(steps_in(tmp_path)) < 12


def test_fit_ends_with_its_error_though_batches_are_under_way():
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        fit(taking_bytes(), optax.sgd(float("inf")), streamed(Files()), steps=100)
    assert background() == []


def test_fit_shows_images_per_second_in_a_bar(monkeypatch):
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    monkeypatch.setattr(rich.progress, "get_console", lambda: console)
    same(fit(network(), optax.sgd(0.1), progress="training"), fit(network(), optax.sgd(0.1)))
    assert re.search(r"training.* [\d,]+ images/s", screen.getvalue(), re.DOTALL)


# --------------------------------------------------------------------------------------------------- many devices

SHARDED = """
import sys
sys.path.insert(0, sys.argv[1])
import jax, jax.numpy as jnp, numpy as np, optax
import jaxprune as jp
from tests.train.tiny import data, fit, mask_of, network

assert jax.device_count() == 8
mesh, net, tx = jp.mesh.make(), network(), optax.adam(0.01)
tx = jp.optim.with_mask(tx, mask_of(net.params))
batch = {**data(16), "weight": np.linspace(0, 1, 16, dtype=np.float32)}
results = []
for place, spread in ((lambda tree: tree, lambda batch: batch),
                      (lambda tree: jp.mesh.replicate(mesh, tree), lambda batch: jp.mesh.shard_batch(mesh, batch))):
    state = jax.tree.map(jnp.array, place((net, tx.init(net.params))))
    for turn in range(4):
        *state, metrics = jp.train.step(*state, spread(batch), jax.random.key(turn), loss=jp.losses.cross_entropy,
                                        update=tx.update)
    results.append((state[0].params, metrics))
    results.append((fit(place(net), tx).params, metrics))
for left, right in ((0, 2), (1, 3)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6),
                 results[left], results[right])
assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(results[2][0]))
print("same")
"""


def test_fit_on_many_devices_gives_the_result_of_one():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", SHARDED, str(Path(__file__).parents[1])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.stdout == "same\n", done.stderr


def test_fit_compiles_a_step_once_whatever_is_tied_to_a_device():
    """Weights of a checkpoint are tied to their device; an optimizer that was just begun is not."""
    data = {"image": np.ones((4, 3), np.float32), "label": np.array([0, 1, 0, 1])}
    apply = lambda params, state, images: images @ params["w"] + params["b"]  # noqa: E731
    tied, free = jax.device_put(jnp.zeros((3, 2)), jax.devices()[0]), jnp.zeros(2)
    assert tied.committed
    before = jp.train.step._cache_size()
    tx = optax.adam(0.1)
    for params in ({"w": tied, "b": free}, {"w": tied, "b": tied[0]}):
        jp.train.fit(jp.Network(apply, params), jp.losses.cross_entropy, tx, data, steps=3, batch_size=2, seed=0)
    assert jp.train.step._cache_size() == before + 1
