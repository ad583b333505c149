"""Compilation apart: what is counted of events that are made up, under a clock that goes on when told to."""

import threading

import jax
import numpy as np
import pytest
from jax import monitoring

from jaxprune import cost
from jaxprune.cost import compilation

TRACE, LOWER, COMPILE = (
    f"/jax/core/compile/{name}_duration" for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)


class Clock:
    """Stands still unless told to go on, and takes work that JAX reports."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += seconds

    def events(self, event, seconds):
        self.work(seconds)
        monitoring.record_event_duration_secs(event, seconds, fun_name="f")


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(compilation, "_now", made)
    return made


def test_stopwatch_counts_what_jax_reports_and_nothing_else(clock):
    with cost.stopwatch() as spent:
        clock.work(2.0)
        for event, seconds in ((TRACE, 0.5), (LOWER, 0.25), (COMPILE, 4.0)):
            clock.events(event, seconds)
        clock.events("/jax/compilation_cache/compile_time_saved_sec", 8.0)
        clock.events("/jax/something/new_duration", 1.0)
    assert (spent.seconds, spent.compiling) == (15.75, 4.75)


def test_stopwatch_counts_what_is_compiled_inside_a_trace_once(clock):
    with cost.stopwatch() as spent:
        clock.work(1.0)
        clock.events(COMPILE, 2.0)
        clock.work(0.5)
        clock.events(TRACE, 0.5)  # inside of the next
        monitoring.record_event_duration_secs(TRACE, 3.5)  # from 0.5 s into the block on
    assert (spent.seconds, spent.compiling) == (4.0, 3.5)


def test_stopwatch_counts_nothing_of_what_is_outside(clock):
    clock.events(COMPILE, 3.0)
    with cost.stopwatch() as spent:
        clock.work(1.0)
        monitoring.record_event_duration_secs(COMPILE, 5.0)  # began before the block
        clock.work(1.0)
        monitoring.record_event_duration_secs(COMPILE, -5.0)  # the clock of JAX was set back
    clock.events(COMPILE, 7.0)
    assert (spent.seconds, spent.compiling) == (2.0, 1.0)


def test_stopwatch_can_be_read_inside_and_holds_other_stopwatches(clock):
    with cost.stopwatch() as outer:
        clock.events(COMPILE, 1.0)
        with cost.stopwatch() as inner:
            clock.events(COMPILE, 2.0)
            assert (outer.seconds, outer.compiling, inner.compiling) == (3.0, 3.0, 2.0)
        clock.events(COMPILE, 4.0)
    assert (outer.compiling, inner.compiling) == (7.0, 2.0)


def test_stopwatch_ends_where_the_block_fails(clock):
    def failing():
        with cost.stopwatch() as spent:
            found.append(spent)
            clock.events(COMPILE, 1.0)
            raise KeyError("that is enough")

    found = []
    with pytest.raises(KeyError, match="that is enough"):
        failing()
    (spent,) = found
    clock.events(COMPILE, 1.0)
    assert (spent.seconds, spent.compiling) == (1.0, 1.0)


def test_stopwatch_is_not_charged_with_what_other_threads_compile(clock):
    theirs = []

    def elsewhere():
        clock.events(COMPILE, 5.0)
        with cost.stopwatch() as spent:
            clock.events(COMPILE, 2.0)
        theirs.append(spent.compiling)

    with cost.stopwatch() as spent:
        clock.events(COMPILE, 1.0)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert (spent.seconds, spent.compiling, theirs) == (8.0, 1.0, [2.0])


def test_stopwatch_listens_once_however_often_it_is_used(monkeypatch):
    heard = []
    monkeypatch.setattr(compilation.monitoring, "register_event_duration_secs_listener", heard.append)
    compilation._listen.cache_clear()
    for _ in range(3):
        with cost.stopwatch():
            pass
    assert heard == [compilation._hear]


def test_stopwatch_hears_the_installed_jax_and_is_silent_where_all_is_compiled():
    program, image = jax.jit(lambda x: 2 * x - 1), np.ones(3)
    with cost.stopwatch() as first:
        program(image)
    with cost.stopwatch() as second:
        program(image)
    assert 0 < first.compiling <= first.seconds
    assert second.compiling == 0


@pytest.mark.parametrize(
    ("intervals", "begin", "expected"),
    [
        ([], 0.0, 0.0),
        ([(1.0, 2.0), (3.0, 5.0)], 0.0, 3.0),
        ([(1.0, 3.0), (2.0, 5.0)], 0.0, 4.0),
        ([(2.0, 3.0), (1.0, 5.0), (4.0, 5.0)], 0.0, 4.0),
        ([(1.0, 3.0), (2.0, 5.0)], 2.5, 2.5),
        ([(1.0, 3.0)], 4.0, 0.0),
        ([(3.0, 1.0)], 0.0, 0.0),
    ],
)
def test_covered_is_the_length_of_the_union_after_the_beginning(intervals, begin, expected):
    assert compilation.covered(intervals, begin) == expected
    assert compilation.covered(reversed(intervals), begin) == expected
