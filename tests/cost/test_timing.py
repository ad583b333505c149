"""Latency and comparison: what is called when, what is made of the times; never how long anything takes."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import cost
from jaxprune.cost import timing

IMAGES = np.ones((4, 2, 2, 3))


def _apply(params, state, images):
    return images.reshape(len(images), -1) @ params["w"]


def _network(units=5):
    return jp.Network(_apply, {"w": np.ones((12, units))})


@pytest.fixture
def scripted(monkeypatch):
    """Replaces the clock: hands out stated seconds, and notes the width of the outputs of every call."""

    def install(seconds):
        calls, left = [], iter(seconds)

        def clock(call):
            calls.append(call().shape[-1])
            return next(left)

        monkeypatch.setattr(timing, "_seconds", clock)
        return calls

    return install


def test_latency_is_positive_and_ordered():
    got = cost.latency(_network(), IMAGES, repeats=4, warmup=1)
    assert 0 < got.low <= got.seconds <= got.high
    assert got.compile_seconds > 0
    assert (got.examples, got.calls) == (4, 4)
    assert "for 4 images" in str(got)


def test_latency_sums_up_warm_calls_by_their_median_and_quartiles(scripted):
    calls = scripted([100.0, 100.0, 5.0, 1.0, 3.0, 2.0, 4.0])
    got = cost.latency(_network(), IMAGES, repeats=5, warmup=2)
    assert (got.low, got.seconds, got.high) == (2.0, 3.0, 4.0)
    assert len(calls) == 7


def test_latency_traces_a_network_once_with_its_arrays_as_arguments():
    traced = []

    def apply(params, state, images):
        traced.append(isinstance(params["w"], jax.core.Tracer) and isinstance(images, jax.core.Tracer))
        return _apply(params, state, images)

    cost.latency(jp.Network(apply, {"w": np.ones((12, 5))}), IMAGES, repeats=3)
    assert traced == [True]


def test_seconds_wait_for_the_outputs(monkeypatch):
    events = []
    monkeypatch.setattr(timing.jax, "block_until_ready", lambda value: events.append(value))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: events.append("clock") or 0.0)
    timing._seconds(lambda: "outputs")
    assert events == ["clock", "outputs", "clock"]


def test_compare_lets_networks_take_turns_and_goes_back_every_second_round(scripted):
    calls = scripted([1.0] * 12)
    cost.compare({"a": _network(1), "b": _network(2), "c": _network(3)}, IMAGES, rounds=3, warmup=1)
    assert calls == [1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 2, 1]


def test_compare_takes_ratios_within_a_round(scripted):
    # Rounds of (dense, pruned), the second one backwards; the machine is ten times slower in the last.
    scripted([2.0, 1.0, 3.0, 4.0, 20.0, 18.0])
    got = cost.compare({"dense": _network(), "pruned": _network(2)}, IMAGES, rounds=3, warmup=0)
    ratios = np.array([1 / 2, 3 / 4, 18 / 20])
    assert got.ratios["dense"] == cost.Ratio(1.0, 1.0, 1.0)
    pruned = got.ratios["pruned"]
    np.testing.assert_allclose([pruned.low, pruned.median, pruned.high], np.percentile(ratios, [25, 50, 75]))
    assert got.latencies["pruned"].seconds == 3.0
    assert got.latencies["dense"].seconds == 4.0
    assert [line.split(":")[0] for line in str(got).splitlines()] == ["dense", "pruned"]
    assert "pruned: 0.750" in str(got)


def test_compare_takes_real_networks_of_two_sizes():
    got = cost.compare({"dense": _network(), "pruned": _network(2)}, IMAGES, rounds=2, warmup=0)
    assert list(got.latencies) == list(got.ratios) == ["dense", "pruned"]
    assert got.ratios["pruned"].low > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, r"repeats: expected 1 or more"),
        ({"warmup": -1}, r"warmup: expected 0 or more"),
        ({"images": np.ones((0, 2, 2, 3))}, r"images: expected a batch \[b, h, w, c\].*\(0, 2, 2, 3\)"),
        ({"images": np.ones(3)}, r"images: expected a batch"),
        (
            {"network": jp.Network(_apply, {"w": jax.ShapeDtypeStruct((12, 5), np.float64)})},
            r"leaf 0/w is a shape only",
        ),
    ],
)
def test_latency_names_bad_input_before_anything_is_compiled(change, message, monkeypatch):
    monkeypatch.setattr(timing, "_compiled", None)
    arguments = {"network": _network(), "images": IMAGES, **change}
    with pytest.raises(ValueError, match=message):
        cost.latency(arguments.pop("network"), arguments.pop("images"), **arguments)


def test_compare_refuses_nothing_to_compare():
    with pytest.raises(ValueError, match="networks: expected one or more"):
        cost.compare({}, IMAGES)
    with pytest.raises(ValueError, match="rounds: expected 1 or more"):
        cost.compare({"dense": _network()}, IMAGES, rounds=0)
