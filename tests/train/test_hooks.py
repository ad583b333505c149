"""What people hang on a training: logs, evaluations, augmentation, random streams, the optimizer's state, signals."""

import itertools
import os
import signal
import threading
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.train.tiny import apply, copied, data, fit, mask_of, network, rows, same, steps_in

TX = optax.adam(0.01)


# -------------------------------------------------------------------------------------------- logs and evaluations


def test_fit_logs_the_numbers_of_its_file_with_and_without_one(tmp_path):
    with_folder, without = [], []
    fit(
        network(), TX, folder=tmp_path, log_every=5, log=lambda step, found: with_folder.append({"step": step, **found})
    )
    fit(network(), TX, log_every=5, log=lambda step, found: without.append({"step": step, **found}))
    assert [row["step"] for row in without] == [5, 10, 12]
    assert without == with_folder == rows(tmp_path)


def largest(net: jp.Network) -> dict[str, float]:
    return {"largest": max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(net.params))}


def test_fit_evaluates_every_so_many_steps_what_stays_alive(tmp_path):
    kept = []

    def evaluate(net: jp.Network) -> dict[str, float]:
        kept.append(net)
        return largest(net)

    seen: list[Any] = []
    trained = fit(
        network(),
        TX,
        folder=tmp_path,
        evaluate=evaluate,
        evaluate_every=5,
        log_every=10,
        log=lambda step, found: seen.append({"step": step, **found}),
    )
    own = {"step", "loss", "gradient_norm"}
    assert [(row["step"], set(row)) for row in seen] == [
        (5, {"step", "largest"}),
        (10, {*own, "largest"}),
        (12, {*own, "largest"}),
    ]
    assert seen == rows(tmp_path)
    for net, steps in zip(kept, (5, 10, 12), strict=True):
        same(net, fit(network(), TX, steps=steps))
    assert [row["largest"] for row in seen] == [largest(net)["largest"] for net in kept]
    same(trained, fit(network(), TX))


def test_fit_evaluates_nothing_that_a_step_broke():
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(
            network(),
            optax.sgd(float("inf")),
            evaluate=lambda _: pytest.fail("was evaluated"),
            evaluate_every=1,
            log_every=100,
        )


WRONG_NUMBERS = {
    "a name of fit": ({"loss": 1.0, "a": 1.0}, ValueError, "evaluate: expected names other than .*returned loss. Give"),
    "the step": ({"step": 1.0}, ValueError, "it returned step"),
    "no dictionary": (0.5, TypeError, r"evaluate: expected it to return \{name: number\}, but after step 12 got 0\.5"),
    "no text": ({1: 0.5}, TypeError, r"evaluate: expected it to return \{name: number\}"),
    "an array": ({"a": np.ones(2)}, TypeError, "evaluate: expected one real number for every name, .* 'a' is array"),
    "NaN": ({"a": float("nan")}, ValueError, "evaluate: after step 12: expected finite numbers.*a is nan"),
}


@pytest.mark.parametrize("case", WRONG_NUMBERS)
def test_evaluated_refuses_what_is_no_number_by_a_name_of_its_own(case, unchecked):
    found, error, message = WRONG_NUMBERS[case]
    with pytest.raises(error, match=message):
        jp.train.metrics.evaluated(lambda _: found, network(), 12)


@pytest.mark.parametrize("name", ["evaluate_every", "log_every", "save_every"])
def test_fit_refuses_intervals_that_are_none(name):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of 1 or more, but got 0"):
        fit(network(), TX, **{name: 0})


# ------------------------------------------------------------------------------------------------- augmentation


@dataclass(frozen=True)
class Noise:
    """Equal ones are one function."""

    size: float
    calls: Any = None

    def __call__(self, batch: Any, key: Any) -> Any:
        if self.calls is not None:
            self.calls.append(1)
        noise = self.size * jax.random.normal(key, batch["image"].shape, batch["image"].dtype)
        return {**batch, "image": batch["image"] + noise}


class Calls(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def keeping(params, state, images, rngs):
    """Keeps the keys, and the images, of the last step in the state."""
    del state
    return apply(params, {}, images), {"keys": {n: jax.random.key_data(k) for n, k in rngs.items()}, "images": images}


def keeper(*names: str) -> jp.Network:
    zeros = {"keys": {name: jnp.zeros(2, jnp.uint32) for name in names}, "images": jnp.zeros((8, 2, 2, 1), jnp.float32)}
    return network().replace(train_apply=keeping, state=zeros)


def test_fit_augments_every_batch_by_a_key_of_its_step():
    plain = fit(keeper("dropout"), TX, steps=3)
    noisy = [fit(keeper("dropout"), TX, steps=steps, augment=Noise(0.1)) for steps in (2, 3)]
    # The keys of dropout are what they are without.
    same(noisy[1].state["keys"], plain.state["keys"])
    batches = [jp.data.training_batch(data(), 8, 0, step)["image"] for step in (1, 2)]
    noise = [np.asarray(net.state["images"]) - batch for net, batch in zip(noisy, batches, strict=True)]
    for one in noise:
        assert 0.05 < np.std(one) < 0.15
    assert np.abs(noise[0] - noise[1]).max() > 0.05
    assert (
        np.abs(noise[0] - (fit(keeper("dropout"), TX, steps=2, seed=1, augment=Noise(0.1)).state["images"])).max() > 0
    )
    same(fit(network(), TX, augment=lambda batch, key: batch), fit(network(), TX))


def test_fit_resumed_augments_as_one_that_was_not(tmp_path):
    whole = fit(network(), TX, augment=Noise(0.1))
    fit(network(), TX, augment=Noise(0.1), steps=5, folder=tmp_path)
    same(fit(network(), TX, augment=Noise(0.1), folder=tmp_path), whole)
    changed = [
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (whole.params, fit(network(), TX).params)), strict=True)
    ]
    assert all(changed)


def test_fit_compiles_equal_augmentations_once():
    calls = Calls()
    fit(network(), TX, steps=2, augment=Noise(0.1, calls))
    first = len(calls)
    fit(network(), TX, steps=2, augment=Noise(0.1, calls))
    # For its shapes, and in the step; both are remembered.
    assert (first, len(calls)) == (2, 2)


WRONG_BATCHES = {
    "no batch": (lambda batch, key: batch["image"], TypeError, r"augment: expected a function \(batch, key\) -> batch"),
    "an entry less": (
        lambda batch, key: {"image": batch["image"], "label": batch["label"]},
        ValueError,
        "augment: expected a batch with all its entries, but it returns none called weight",
    ),
    "more examples": (
        lambda batch, key: jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batch),
        ValueError,
        r"augment: expected as many examples as there were, 8, but 'image' has the shape \(16, 2, 2, 1\)",
    ),
    "labels of another form": (
        lambda batch, key: {**batch, "label": jax.nn.one_hot(batch["label"], 5)},
        ValueError,
        r"batch: expected labels of shape \(8,\) \(classes\) or \(8, 3\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_BATCHES)
def test_fit_refuses_before_training_an_augmentation_that_makes_no_batch(case):
    augment, error, message = WRONG_BATCHES[case]
    with pytest.raises(error, match=message):
        fit(network(), TX, augment=augment)


def test_fit_takes_images_that_only_augmentation_makes_those_of_the_network():
    """Bytes that are cut out of larger pictures, and soft labels."""
    examples = data()
    larger = {"image": np.zeros((30, 5, 5, 1), np.uint8), "label": examples["label"]}

    def augment(batch: Any, key: Any) -> Any:
        del key
        images = batch["image"][:, 1:3, 1:3] / jnp.float32(255)
        return {**batch, "image": images, "label": 0.9 * jax.nn.one_hot(batch["label"], 3)}

    expected = {"image": np.zeros((30, 2, 2, 1), np.float32), "label": 0.9 * np.eye(3)[examples["label"]]}
    got = fit(network(), TX, larger, augment=augment)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got.params, fit(network(), TX, expected).params
    )


# ----------------------------------------------------------------------------------------------- random streams


def test_fit_gives_every_random_stream_a_key_of_its_own():
    expected = np.asarray(jax.random.key_data(jax.random.fold_in(jax.random.key(0), 2)))
    alone = fit(keeper("dropout"), TX, steps=3).state["keys"]
    np.testing.assert_array_equal(alone["dropout"], expected)
    more = fit(keeper("dropout", "noise", "depth"), TX, steps=3, rngs=["noise", "dropout", "depth"]).state["keys"]
    assert len({tuple(np.asarray(key)) for key in more.values()}) == 3
    np.testing.assert_array_equal(more["dropout"], expected)
    same(fit(keeper("noise"), TX, steps=3, rngs=("noise",)).state["keys"]["noise"], more["noise"])


def test_recalibrate_gives_the_random_streams_that_are_named():
    def train_apply(params, state, images, rngs):
        average = 0.9 * state["average"] + 0.1 * jax.random.normal(rngs["noise"], ())
        return apply(params, {}, images), {"average": average}

    net = network().replace(train_apply=train_apply, state={"average": jnp.zeros(())})
    got = jp.train.recalibrate(net, [data(8)], jax.random.key(0), rngs=("noise",))
    assert abs(float(got.state["average"])) > 1e-3
    with pytest.raises(KeyError, match="noise"):
        jp.train.recalibrate(net, [data(8)], jax.random.key(0))


@pytest.mark.parametrize("rngs", ["dropout", ("a", "a"), ("",), (1,), None])
def test_fit_refuses_names_of_streams_that_are_none(rngs, unchecked):
    with pytest.raises(ValueError, match="rngs: expected the names of the random streams of train_apply"):
        fit(network(), TX, rngs=rngs)


# --------------------------------------------------------------------------------------- the state of the optimizer


def linear() -> tuple[jp.Network, dict[str, Any], np.ndarray, np.ndarray]:
    """A network of one matrix, and a quadratic loss: its images, and what it shall return for them."""
    rng = np.random.default_rng(0)
    images, targets = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    net = jp.Network(
        lambda params, state, images: images @ params["w"], {"w": jnp.asarray(rng.standard_normal((3, 2)))}
    )
    return net, {"image": images, "label": targets}, images, targets


def fit_linear(net: jp.Network, examples: Any, tx: Any, steps: int, **options: Any) -> Any:
    options = {"batch_size": 6, "seed": 0, **options}
    return jp.train.fit(net, jp.losses.squared_error, tx, examples, steps=steps, **options)


def test_fit_goes_on_from_the_state_of_an_optimizer_that_it_returned():
    net, examples, images, targets = linear()
    weights, velocity, path = np.asarray(net.params["w"]), 0.0, []
    for _ in range(7):  # heavy ball
        velocity = 0.9 * velocity + 2 / 6 * images.T @ (images @ weights - targets)
        weights = weights - 0.1 * velocity
        path.append((weights, velocity))
    tx = optax.sgd(0.1, momentum=0.9)
    first, optimizer = fit_linear(net, examples, tx, 4, with_optimizer=True)
    before = copied(optimizer)
    second, last = fit_linear(first, examples, tx, 3, optimizer=optimizer, with_optimizer=True)
    for (trained, state), (weights, velocity) in zip(
        ((first, optimizer), (second, last)), (path[3], path[6]), strict=True
    ):
        np.testing.assert_allclose(trained.params["w"], weights, rtol=1e-10)
        np.testing.assert_allclose(jax.tree.leaves(state)[0], velocity, rtol=1e-10)
    same(optimizer, before)  # it stays alive


def test_fit_returns_the_optimizer_of_a_finished_run(tmp_path):
    trained = fit(network(), TX, folder=tmp_path, with_optimizer=True)
    same(fit(network(), TX, folder=tmp_path, with_optimizer=True), trained)
    assert isinstance(trained, tuple)
    assert not isinstance(fit(network(), TX, folder=tmp_path), tuple)


def test_fit_refuses_a_state_of_another_optimizer():
    net = network()
    mask, other = mask_of(net.params), mask_of(net.params, 1)
    tx = jp.optim.with_mask(TX, mask)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), TX.init(net.params))
    cases = [
        (TX, optax.sgd(0.1).init(net.params), "optimizer: expected the structure of tx.init"),
        (TX, TX.init({**net.params, "bias": jnp.zeros(9)}), r"optimizer: at .*bias.* expected the shape \(8,\) of tx"),
        (TX, wide, "optimizer: expected int32 at 0/count, as tx.init"),
        (tx, jp.optim.with_mask(TX, other).init(net.params), "optimizer: expected a state with the mask of tx, but"),
    ]
    for transformation, state, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(net, transformation, optimizer=state)
    moved = jp.optim.with_mask(TX, other).init(net.params)._replace(mask=mask)
    same(fit(net, tx, optimizer=moved), fit(net, tx))


@pytest.mark.parametrize("masked", [False, True])
def test_fit_lets_a_plateau_reduce_the_rate(masked):
    """With a rate of 0 the loss stays as it is: after one step of patience each halves what is left."""
    net, examples, *_ = linear()
    tx: Any = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=1e-6))
    if masked:
        tx = jp.optim.with_mask(tx, {"w": jnp.asarray([[True, False]] * 3)})
    _, state = fit_linear(net, examples, tx, 4, with_optimizer=True)
    plateau = (state.inner if masked else state)[1]
    # The first step finds a best value, the three after it none better.
    np.testing.assert_allclose(plateau.scale, 0.5**3)


@pytest.mark.parametrize("masked", [False, True])
def test_fit_lets_lbfgs_find_the_least_squares(masked):
    net, examples, images, targets = linear()
    keep = np.array([[True, True], [False, True], [True, True]]) if masked else np.ones((3, 2), bool)
    tx: Any = jp.optim.with_mask(optax.lbfgs(), {"w": jnp.asarray(keep)}) if masked else optax.lbfgs()
    expected = np.zeros((3, 2))
    for column in range(2):
        rows = keep[:, column]
        expected[rows, column] = np.linalg.lstsq(images[:, rows], targets[:, column])[0]
    np.testing.assert_allclose(fit_linear(net, examples, tx, 15).params["w"], expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------- signals and clocks


def signalling(*numbers: int, at: int = 5) -> Any:
    """A ``log`` that sends this process signals after a step."""

    def log(step: int, found: Any) -> None:
        del found
        if step == at:
            for number in numbers:
                os.kill(os.getpid(), number)

    return log


def test_fit_saves_at_ctrl_c_as_at_sigterm(tmp_path):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), TX, folder=tmp_path, log_every=1, log=signalling(signal.SIGINT))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert steps_in(tmp_path)[-1] == f"{rows(tmp_path)[-1]['step']:08d}"
    assert rows(tmp_path)[-1]["step"] < 12
    same(fit(network(), TX, folder=tmp_path), fit(network(), TX))


def test_fit_ends_at_once_at_a_second_ctrl_c(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(network(), TX, folder=tmp_path, log_every=1, log=signalling(signal.SIGINT, signal.SIGINT))
    assert steps_in(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fit_ends_as_the_first_signal_says(tmp_path):
    """Some schedulers send both."""
    for number, (signals, error) in enumerate(
        [((signal.SIGTERM, signal.SIGINT), SystemExit), ((signal.SIGINT, signal.SIGTERM), KeyboardInterrupt)]
    ):
        folder = tmp_path / str(number)
        with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
            fit(network(), TX, folder=folder, log_every=1, log=signalling(*signals))
        assert stopped.type is error
        assert len(steps_in(folder)) == 1
        assert getattr(stopped.value, "code", 143) == 143


def test_fit_without_a_folder_ends_at_once_at_ctrl_c():
    seen: list[int] = []
    send = signalling(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), TX, log_every=1, log=lambda step, found: [send(step, found), seen.append(step)])
    assert seen == [1, 2, 3, 4]


def test_fit_leaves_an_ignored_ctrl_c_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(network(), TX, folder=tmp_path, log_every=1, log=signalling(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    except KeyboardInterrupt:
        pytest.fail("it was not ignored")
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps_in(tmp_path) == ["00000012"]


def test_fit_runs_in_a_thread_that_gets_no_signals(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(network(), TX, folder=tmp_path)))
    thread.start()
    thread.join()
    same(found, [fit(network(), TX)])


def test_fit_refuses_a_folder_that_another_one_trains_in(tmp_path):
    """In another thread, from inside, and for a save by hand; afterwards it is free."""
    taken = f"folder: expected one that nobody else writes into, but process {os.getpid()} on "
    refused: list[str] = []

    def attempt(action: Any) -> None:
        with pytest.raises(ValueError, match=taken):
            action()
        refused.append("")

    def evaluate(net: jp.Network) -> dict[str, float]:
        attempt(lambda: fit(network(), TX, folder=tmp_path))
        attempt(lambda: jp.checkpoint.save(tmp_path, 99, net))
        thread = threading.Thread(target=attempt, args=(lambda: fit(network(), TX, folder=tmp_path),))
        thread.start()
        thread.join()
        return {}

    fit(network(), TX, folder=tmp_path, evaluate=evaluate)
    assert len(refused) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000012", "metrics.jsonl", "run.json"]


def test_fit_holds_its_folder_before_it_looks_at_anything(tmp_path, monkeypatch):
    with jp.checkpoint.Writer(tmp_path):
        examples = {**data(), "image": np.full((30, 2, 2, 1), np.nan, np.float32)}
        with pytest.raises(ValueError, match="folder: expected one that nobody else writes into"):
            fit(network(), TX, examples, folder=tmp_path)
    with pytest.raises(ValueError, match="data: "):
        fit(network(), TX, examples, folder=tmp_path)
    fit(network(), TX, folder=tmp_path)  # an error lets it go


@pytest.mark.parametrize(("save_every", "expected"), [(None, [4, 8, 12]), (6, [4, 6, 10, 12])])
def test_fit_saves_every_so_many_seconds(tmp_path, monkeypatch, save_every, expected):
    clock, saved = itertools.count(), []
    save = jp.checkpoint.Writer.save

    def noted(self: Any, step: int, *arguments: Any) -> Any:
        saved.append(step)
        return save(self, step, *arguments)

    monkeypatch.setattr(jp.checkpoint.Writer, "save", noted)
    # A second goes by whenever somebody looks, as it does once in a step, and when something was saved.
    monkeypatch.setattr("jaxprune.train.loop.monotonic", lambda: float(next(clock)))
    fit(network(), TX, folder=tmp_path, save_every=save_every, save_every_seconds=4)
    assert saved == expected


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_fit_refuses_seconds_that_are_none(seconds):
    with pytest.raises(ValueError, match="save_every_seconds: expected a finite number above 0"):
        fit(network(), TX, save_every_seconds=seconds)


def test_fit_writes_nothing_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(network(), TX, log=lambda step, found: None, evaluate=largest)
    assert list(tmp_path.iterdir()) == []
