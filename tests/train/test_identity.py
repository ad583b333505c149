"""A folder of checkpoints is of one run: whatever else is asked for is refused, by the name of what differs."""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.train import identity, programs
from tests.test_train import Files, streamed, taking_bytes
from tests.train.tiny import apply, data, fit, mask_of, network, same, steps_in

STEPS = 3


def loss_of(smoothing: float, shift: Any = None) -> Any:
    """A new function every time."""

    def loss(outputs, batch):
        values = (1 - smoothing) * jp.losses.cross_entropy(outputs, batch)
        return values if shift is None else values + jnp.sum(jnp.asarray(shift))

    return loss


def augment_of(size: float) -> Any:
    return lambda batch, key: {**batch, "image": batch["image"] + size * jax.random.normal(key, batch["image"].shape)}


def masked(rate: float = 0.01, seed: int = 0, tx: Any = optax.adam, length: int = 20) -> Any:
    # Weights that either mask prunes are zero in the start, so that the mask differs alone.
    return jp.optim.with_mask(tx(optax.cosine_decay_schedule(rate, length)), mask_of(network().params, seed))


def start() -> jp.Network:
    net = network()
    for seed in (0, 1):
        net = net.replace(params=jp.masks.apply(mask_of(net.params, seed), net.params))
    return net


def train_apply(params, state, images, rngs):
    return apply(params, {}, images) + 0 * jax.random.normal(rngs["dropout"], ()), state


def run(folder: Path | None, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "network": start().replace(train_apply=train_apply),
        "loss": loss_of(0.1, np.arange(3.0)),
        "tx": masked(),
        "data": data(),
        "augment": augment_of(0.1),
        "steps": STEPS,
        "batch_size": 8,
        "seed": 0,
        "folder": folder,
        **changes,
    }
    return jp.train.fit(*[asked.pop(name) for name in ("network", "loss", "tx", "data")], **asked)


@pytest.fixture(scope="module")
def written(tmp_path_factory: Any) -> Path:
    jax.config.update("jax_enable_x64", True)  # as every test here does
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


def changed_bit(net: jp.Network) -> jp.Network:
    params = dict(net.params)
    second = np.array(params["second"])
    kept = np.flatnonzero(second)[0]  # one that no mask makes zero
    second.flat[kept] = np.nextafter(second.flat[kept], np.float32(9))
    params["second"] = jnp.asarray(second)
    return net.replace(params=params)


def other_apply(params, state, images, rngs):
    return 2 * train_apply(params, state, images, rngs)[0], state


def swapped() -> dict[str, Any]:
    examples = data()
    return {**examples, "label": examples["label"][::-1].copy()}


def warm() -> Any:
    state = masked().init(start().params)
    return jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == np.int32 else leaf, state)


def training() -> jp.Network:
    return start().replace(train_apply=train_apply)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "a bit of the start": ({"network": changed_bit(training())}, "another start"),
    "the state of the start": (
        {"network": training().replace(state={"steps": jnp.ones((), jnp.int32)})},
        "another start",
    ),
    "mask": ({"tx": masked(seed=1)}, "another mask"),
    "no mask": ({"tx": optax.adam(optax.cosine_decay_schedule(0.01, 20))}, "another mask"),
    "state of the optimizer": ({"optimizer": warm()}, "another initial state of tx"),
    "loss": ({"loss": loss_of(0.2, np.arange(3.0))}, "another loss"),
    "a constant of the loss": ({"loss": loss_of(0.1, np.array([0.0, 2.0, 1.0]))}, "another loss"),
    "rate": ({"tx": masked(0.02)}, "another tx"),
    "schedule": ({"tx": masked(length=9)}, "another tx"),
    "kind of the optimizer": ({"tx": masked(tx=functools.partial(optax.adam, nesterov=True))}, "another tx"),
    "network": ({"network": training().replace(train_apply=other_apply)}, "another network"),
    "no train_apply": ({"network": start()}, "another network"),
    "augment": ({"augment": augment_of(0.2)}, "another augment"),
    "no augment": ({"augment": None}, "another augment"),
    "labels": ({"data": swapped()}, "other data"),
    "weights": ({"data": {**data(), "weight": np.ones(30, np.float32)}}, "other data"),
    "more data": ({"data": data(31)}, "other data"),
    "batch size": ({"batch_size": 10}, r"another batch_size \(8, not 10\)"),
    "seed": ({"seed": 1}, r"another seed \(0, not 1\)"),
    "rngs": ({"rngs": ("dropout", "noise")}, r"other rngs \(\['dropout'\], not \['dropout', 'noise'\]\)"),
    "several": (
        {"data": swapped(), "loss": jp.losses.squared_error, "tx": masked(10.0), "seed": 2},
        r"other data, another seed \(0, not 2\), another tx, another loss|"
        r"other data, another seed \(0, not 2\), another loss, another tx",
    ),
}


@pytest.mark.parametrize("part", OTHERS)
def test_fit_refuses_a_folder_of_another_run_and_names_the_part(written, part):
    changes, message = OTHERS[part]
    before = (written / "run.json").read_bytes(), (written / "metrics.jsonl").read_bytes(), steps_in(written)
    with pytest.raises(
        ValueError, match=rf"^folder: '{re.escape(str(written))}' holds a run with ({message})\. Choose"
    ):
        run(written, steps=STEPS + 1, **changes)
    assert before == ((written / "run.json").read_bytes(), (written / "metrics.jsonl").read_bytes(), steps_in(written))


def test_fit_takes_equal_functions_that_were_made_twice_and_traces_once(written, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(written, folder)
    jax.clear_caches()
    calls = []

    def loss(outputs, batch):  # by another name
        calls.append(1)
        return (1 - 0.1) * jp.losses.cross_entropy(outputs, batch) + jnp.sum(jnp.asarray(np.arange(3.0)))

    options = {"log_every": 1, "save_every": 2, "evaluate": lambda net: {}, "progress": None, "rngs": ["dropout"]}
    longer = run(folder, loss=loss, steps=STEPS + 2, **options)
    # By itself, and in the whole step, which then runs.
    assert len(calls) == 2
    same(longer, run(None, steps=STEPS + 2))
    assert steps_in(folder)[-1] == "00000005"


def test_fit_takes_a_start_that_the_mask_makes_the_same(written):
    net = training()
    mask = mask_of(net.params)
    dense = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 7.0), mask, net.params)
    same(run(written, network=net.replace(params=dense)), run(written))


def test_fit_tells_no_identity_without_a_folder(monkeypatch):
    monkeypatch.setattr(identity, "parts", lambda *_: pytest.fail("the identity was told"))
    run(None, steps=1)


def test_fit_takes_a_folder_without_checkpoints_for_any_run(tmp_path):
    with pytest.raises(FloatingPointError):
        fit(network(), optax.sgd(float("inf")), folder=tmp_path)
    fit(network(), optax.sgd(0.1), folder=tmp_path)
    with pytest.raises(ValueError, match="another tx"):
        fit(network(), optax.sgd(0.2), folder=tmp_path)


def test_fit_refuses_checkpoints_that_nobody_can_tell_of_which_run_they_are(tmp_path):
    fit(network(), optax.sgd(0.1), folder=tmp_path)
    path = tmp_path / "run.json"
    text = path.read_text()
    path.unlink()
    with pytest.raises(
        ValueError, match=r"earlier version of jaxprune, without run\.json: .*start, mask.* Choose anoth"
    ):
        fit(network(), optax.sgd(0.1), folder=tmp_path)
    for broken in (text[: len(text) // 2], "[]", "{}", text.replace('"format": 1', '"format": 2')):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"folder: '.*run\.json' cannot be read .*Choose another folder"):
            fit(network(), optax.sgd(0.1), folder=tmp_path)


def test_fit_warns_where_another_jax_wrote_the_programs_and_compares_the_rest(tmp_path):
    fit(network(), optax.sgd(0.1), steps=3, folder=tmp_path)
    path = tmp_path / "run.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "jax": "0.1.2", "programs": dict.fromkeys(found["programs"], "")}))
    with pytest.raises(ValueError, match=r"holds a run with another seed \(0, not 1\)\. Choose"):
        fit(network(), optax.sgd(0.1), folder=tmp_path, seed=1)
    with pytest.warns(UserWarning, match=rf"written with jax 0\.1\.2, and this is jax {jax.__version__}"):
        resumed = fit(network(), optax.sgd(0.1), folder=tmp_path)
    same(resumed, fit(network(), optax.sgd(0.1)))
    # From here on it is a run of this jax.
    with pytest.raises(ValueError, match="another tx"):
        fit(network(), optax.sgd(0.2), folder=tmp_path)


def test_fit_refuses_another_precision(tmp_path):
    examples = {**data(), "image": data()["image"].astype(np.float64)}
    fit(network(), optax.sgd(0.1), examples, folder=tmp_path, steps=3)
    jax.config.update("jax_enable_x64", False)  # until the end of this test
    with pytest.raises(ValueError, match=r"holds a run with numbers of another precision \(jax_enable_x64\)"):
        fit(network(), optax.sgd(0.1), examples, folder=tmp_path)


def test_fit_refuses_other_streams(tmp_path):
    options: dict[str, Any] = {"folder": tmp_path, "steps": 3}
    fit(taking_bytes(), optax.sgd(0.1), streamed(Files()), **options)
    fit(taking_bytes(), optax.sgd(0.1), streamed(Files()), **options)
    other = Files()
    other.fingerprint = lambda: "files:01"  # type: ignore[method-assign]
    turned = {"image": jp.data.Stream(Files(), np.arange(30)[::-1]), "label": data()["label"]}
    for examples in (streamed(other), turned):
        with pytest.raises(ValueError, match="holds a run with other data"):
            fit(taking_bytes(), optax.sgd(0.1), examples, **options)


@jax.custom_vjp
def straight(x):
    return jnp.round(x)


@jax.custom_vjp
def scaled(x):
    return jnp.round(x)


straight.defvjp(lambda x: (straight(x), None), lambda _, g: (g,))
scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (2 * g,))


def test_fit_refuses_another_derivative_of_the_same_function(tmp_path):
    def through(rounded: Any) -> jp.Network:
        return network().replace(
            apply=lambda params, state, images: apply(params, state, images) + rounded(params["second"].sum())
        )

    fit(through(straight), optax.sgd(0.1), steps=2, folder=tmp_path)
    fit(through(straight), optax.sgd(0.1), steps=2, folder=tmp_path)
    with pytest.raises(ValueError, match="holds a run with another derivative of loss or network"):
        fit(through(scaled), optax.sgd(0.1), steps=2, folder=tmp_path)


# ------------------------------------------------------------------------------------------------------ programs


def looped(factor: float, least: float = 0.0) -> Any:
    def body(carry: Any, x: Any) -> Any:
        return jax.lax.cond(carry > least, lambda c: c * factor, lambda c: c + x, carry), None

    return lambda x: jax.lax.scan(body, jnp.float32(1), x)[0]


def called(function: Any) -> Any:
    return lambda x: jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def first_callback(x):
    return np.asarray(x)


def second_callback(x):
    return np.asarray(x)


def closing(constant: Any) -> Any:
    return lambda x: jnp.dot(x, constant)


def jitted(factor: float, name: str) -> Any:
    def inner(x):
        return factor * x

    inner.__name__ = name
    return jax.jit(inner)


def ruled(name: str, backward: bool) -> Any:
    """A function with a rule for its derivative of this name."""

    def rule(*values):
        return (function(*values), None) if backward else (function(*values[0]), 3 * values[1][0])

    rule.__name__ = rule.__qualname__ = name
    if backward:
        function: Any = jax.custom_vjp(lambda x: 2 * x)
        function.defvjp(rule, lambda _, g: (3 * g,))
    else:
        function = jax.custom_jvp(lambda x: 2 * x)
        function.defjvp(rule)
    return function


X = np.ones(3, np.float32)

EQUAL = {
    "names of rules": (lambda: ruled("first", False), lambda: ruled("second", False)),
    "names of rules backward": (lambda: ruled("first", True), lambda: ruled("second", True)),
    "loops": (lambda: looped(2.0), lambda: looped(2.0)),
    "constants": (lambda: closing(np.arange(3.0)), lambda: closing(jnp.arange(3.0))),
    "names": (lambda: jitted(2.0, "first"), lambda: jitted(2.0, "second")),
    "activations": (lambda: lambda x: jax.nn.gelu(jax.nn.relu(x)), lambda: lambda y: jax.nn.gelu(jax.nn.relu(y))),
    "callbacks": (lambda: called(first_callback), lambda: called(first_callback)),
    "random numbers": (
        lambda: lambda x: x + jax.random.normal(jax.random.key(0), (3,)),
        lambda: lambda x: x + jax.random.normal(jax.random.key(0), (3,)),
    ),
}
DIFFERENT = {
    "inside a branch": (lambda: looped(2.0), lambda: looped(3.0)),
    "a threshold inside a loop": (lambda: looped(2.0), lambda: looped(2.0, 0.5)),
    "constants": (lambda: closing(np.arange(3.0)), lambda: closing(np.arange(3.0)[::-1].copy())),
    "jitted functions": (lambda: jitted(2.0, "same"), lambda: jitted(3.0, "same")),
    "parameters": (lambda: lambda x: jnp.cumsum(x), lambda: lambda x: jax.lax.cumsum(x, reverse=True)),
    "operands": (lambda: lambda x: x - 2 * x, lambda: lambda x: 2 * x - x),
    "results": (lambda: lambda x: (x, 2 * x)[0], lambda: lambda x: (x, 2 * x)[1]),
    "callbacks": (lambda: called(first_callback), lambda: called(second_callback)),
    "partial functions": (
        lambda: called(functools.partial(np.add, 1)),
        lambda: called(functools.partial(np.add, 2)),
    ),
    "seeds": (
        lambda: lambda x: x + jax.random.normal(jax.random.key(0), (3,)),
        lambda: lambda x: x + jax.random.normal(jax.random.key(1), (3,)),
    ),
    "types": (lambda: lambda x: x, lambda: lambda x: x.astype(jnp.bfloat16)),
}


@pytest.mark.parametrize(("pairs", "equal"), [(EQUAL, True), (DIFFERENT, False)])
def test_traced_is_equal_for_equal_programs_alone(pairs, equal):
    for name, (left, right) in pairs.items():
        first = programs.traced(left(), X)[0]
        jax.clear_caches()  # nothing that was remembered makes them equal
        assert (programs.traced(right(), X)[0] == first) is equal, name


def test_digest_holds_no_address(monkeypatch):
    seen, original = [], programs._hash
    monkeypatch.setattr(programs, "_hash", lambda words: [seen.extend(words), original(words)][1])
    for left, _ in EQUAL.values():
        programs.traced(left(), X)
    assert len(seen) > 100
    assert not [word for word in seen if "0x" in word]
