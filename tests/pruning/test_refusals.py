"""Every function of rounds names bad input, in our words, before a score or an update is asked."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

pytestmark = pytest.mark.usefixtures("unchecked")

NETWORK = jp.Network(lambda params, state, images: images @ params["w"], {"w": np.arange(1.0, 7.0).reshape(3, 2)})
IMAGES = {"image": np.random.default_rng(0).normal(size=(8, 3))}
WRONG = {"image": np.ones((8, 4))}


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("something was computed")


FUNCTIONS = {
    "rounds": lambda score, data, schedule: jp.pruning.rounds(NETWORK, score, data, {"w": True}, schedule),
    "prune": lambda score, data, schedule: jp.pruning.prune(NETWORK, score, data, {"w": True}, schedule),
    "prune_and_update": lambda score, data, schedule: jp.pruning.prune_and_update(
        NETWORK, score, data, {"w": True}, schedule, lambda network, batches, mask: network.params
    ),
    "ladder": lambda score, data, schedule: jp.pruning.ladder(
        NETWORK, score, data, {"w": True}, schedule, lambda network, mask, number: network
    ),
    "surgeon_rounds": lambda score, data, schedule: jp.pruning.surgeon_rounds(
        NETWORK, score, data, {"w": True}, schedule, steps=1
    ),
    "adam_rounds": lambda score, data, schedule: jp.pruning.adam_rounds(
        NETWORK, score, data, {"w": True}, schedule, gradients=[0.0] * 2
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def last_mask(found: Any) -> Any:
    """Of a mask, a round, or an iterator of rounds."""
    if isinstance(found, dict):
        return found["w"]
    return (found if isinstance(found, jp.pruning.Round) else list(found)[-1]).mask["w"]


@every_function
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (None, r"schedule: expected a sparsity for every round, but got None\. Pass a tuple, such as"),
        (0.5, r"schedule: expected a sparsity for every round, but got 0\.5\. Pass \(0\.5,\)\."),
        ("0.5", "schedule: expected a sparsity for every round, but got '0.5'"),
        ([0.2, None], r"schedule: expected a sparsity for every round, but got \[0\.2, None\]"),
        ([0.2, "0.5"], r"schedule: expected a sparsity for every round, but got \[0\.2, '0\.5'\]"),
        (np.ones((2, 1)) / 2, "schedule: expected a sparsity for every round, but got "),
        (jp.schedules.one_shot, "schedule: expected a sparsity for every round, but got <function one_shot"),
        ([0.5, 0.2], r"schedule: expected one or more sparsities that do not decrease, but got \(0\.5, 0\.2\)"),
        ((0.5, np.nan), r"schedule: expected a fraction in \[0, 1\)"),
    ],
)
def test_sparsities_of_a_schedule_that_is_none_are_refused_by_name(name, schedule, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        FUNCTIONS[name](never, [IMAGES], schedule)


@every_function
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([WRONG], r"batches: expected images that the network takes, but of float64\[8, 4\] it says TypeError: "),
        ([{"label": np.zeros(8)}], "batches: expected the keys 'image'"),
        (IMAGES, r"batches: expected a list of batches, but got a single one\. Pass \[batch\]"),
        (None, "batches: expected a list of batches, but got a NoneType"),
        (3, "batches: expected a list of batches, but got a int"),
    ],
)
def test_readable_refuses_batches_of_no_use_before_they_are_scored(name, data, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        FUNCTIONS[name](never, data, (0.2, 0.5))


@every_function
def test_readable_lists_a_generator_and_schedules_may_be_arrays(name):
    """Scores and updates read their batches in every round."""
    seen = []

    def score(network, batches):
        seen.append(sum(len(batch["image"]) for batch in batches))
        return network.params

    batches = [{"image": IMAGES["image"] + shift} for shift in (0.0, 1.0)]
    schedule = np.asarray(jp.schedules.exponential(0.5, 2))
    found = last_mask(FUNCTIONS[name](score, iter(batches), schedule))
    np.testing.assert_array_equal(found, last_mask(FUNCTIONS[name](score, batches, iter(schedule.tolist()))))
    assert int(np.sum(found)) == 3
    assert set(seen) == {16}


def test_surgeon_rounds_refuse_images_held_out_that_the_network_does_not_take():
    with pytest.raises(ValueError, match=r"^held_out: expected images that the network takes, but of float64\[8, 4\]"):
        jp.pruning.surgeon_rounds(NETWORK, never, [IMAGES], {"w": True}, (0.5,), held_out=[WRONG])
    with pytest.raises(ValueError, match=r"^batches: expected images that the network takes, but of float64\[8, 4\]"):
        jp.pruning.surgeon_rounds(NETWORK, never, [IMAGES, WRONG], {"w": True}, (0.5,))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (3, r"but got a int\. Pass None to begin with the first"),
        (jp.pruning.Round({"w": jnp.ones(1)}, {"w": jnp.ones(1)}), "but got a Round"),
        ([], r"but got a list\. Pass its last entry"),
    ],
)
@pytest.mark.parametrize("name", ["surgeon_rounds", "adam_rounds"])
def test_surgeon_rounds_go_on_after_a_round_of_theirs_only(name, after, message):
    options = {"gradients": [1.0]} if name == "adam_rounds" else {}
    with pytest.raises(TypeError, match=f"^after: expected a round that surgeon_rounds or adam_rounds .*{message}"):
        getattr(jp.pruning, name)(NETWORK, never, [IMAGES], {"w": True}, (0.5,), after=after, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gradients": 10.0},
            r"gradients: expected a number of 0 or more for each of 1 rounds, but got 10\.0\. Pass the",
        ),
        ({"gradients": None}, "gradients: expected a number of 0 or more for each of 1 rounds, but got None"),
        ({"gradients": ["10"]}, r"gradients: expected a number of 0 or more for each of 1 rounds, but got \['10'\]"),
        ({"gradients": [np.nan]}, r"gradients: expected a number of 0 or more for each of 1 rounds, but got \(nan,\)"),
        ({"rates": 1e-3}, r"rates: expected one or more learning rates, but got 0\.001\. Pass a tuple, such as"),
        ({"rates": None}, "rates: expected one or more learning rates, but got None"),
        ({"rates": np.array([1e-3, np.inf])}, "rates: expected a finite number above 0"),
        ({"rates": np.array([])}, "rates: expected one or more learning rates, but got none"),
    ],
)
def test_adam_rounds_refuse_what_lists_no_numbers(changes, message):
    options: dict[str, Any] = {"gradients": [10.0]} | changes
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        jp.pruning.adam_rounds(NETWORK, never, [IMAGES], {"w": True}, (0.5,), **options)


def test_adam_rounds_take_arrays_and_iterators_of_numbers():
    def found(gradients, rates):
        rounds = jp.pruning.adam_rounds(
            NETWORK, jp.scores.magnitude(), [IMAGES], {"w": True}, (0.5,), gradients=gradients, rates=rates
        )
        return next(rounds).params["w"]

    expected = found((30.0,), (1e-3, 1e-2))
    np.testing.assert_array_equal(found(np.array([30.0]), np.array([1e-3, 1e-2])), expected)
    np.testing.assert_array_equal(found(iter([30]), iter([1e-3, 1e-2])), expected)


@pytest.mark.parametrize("name", ["score", "select", "objective"])
def test_surgeon_rounds_refuse_words_where_functions_are_expected(unchecked, name):
    net = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.ones((2, 1))})
    given = {"score": jp.scores.magnitude(), "select": jp.masks.unstructured, "objective": None, name: "greedy"}
    score = given.pop("score")
    with pytest.raises(TypeError, match=f"{name}: expected a function, .* but got 'greedy'"):
        jp.pruning.surgeon_rounds(net, score, [{"image": jnp.ones((8, 2))}], {"w": True}, (0.5,), **given)


def test_surgeon_rounds_refuse_what_is_no_network(unchecked):
    with pytest.raises(TypeError, match=r"network: expected a jp.Network, but got a str\. jp.Network.from_linen"):
        jp.pruning.surgeon_rounds("net", jp.scores.magnitude(), [{"image": jnp.ones((8, 2))}], {"w": True}, (0.5,))
