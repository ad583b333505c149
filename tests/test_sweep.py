"""The loop of all sweeps: what it prepares, in which order, and what becomes of what fails."""

import dataclasses

import pytest

from jaxprune import store as stores
from jaxprune import sweep


@dataclasses.dataclass(frozen=True)
class Run:
    seed: int
    number: int = 0


RUNS = [Run(seed, number) for seed in range(3) for number in range(3)]


@pytest.fixture
def store(tmp_path):
    return stores.Store(tmp_path, "squares", data="of seeds")


def do(store, runs=RUNS, fail=(), broken=(), **options):
    """Does runs, and says what happened, in its order."""
    events = []

    def prepare(seed):
        events.append(("prepare", seed))
        if seed in broken:
            raise OSError("no such data")
        return 10 * seed

    def measure(prepared, run):
        events.append((run.seed, run.number))
        if run in fail:
            raise FloatingPointError("not finite")
        return {"value": prepared + run.number, "provenance": {"clock": 3}}

    count = sweep.work(store, runs, measure, prepare=prepare, shared=lambda run: run.seed, **options)
    return count, events


def test_work_prepares_what_runs_share_once_and_does_them_together(store):
    mixed = sorted(RUNS, key=lambda run: run.number)
    count, events = do(store, mixed)
    assert count == 9
    assert events == [event for seed in range(3) for event in [("prepare", seed), *((seed, n) for n in range(3))]]
    record = store.read(Run(2, 1))
    assert record["metrics"] == {"value": 21}
    assert record["provenance"]["clock"] == 3
    assert record["provenance"]["data"] == "of seeds"
    assert do(store) == (0, [])
    assert not store.claimed()


def test_work_prepares_nothing_for_what_is_done_or_held_by_others(store):
    do(store, RUNS[:3])
    held = [store.claim(run) for run in RUNS[3:6]]
    count, events = do(store)
    assert (count, [event for event in events if event[0] == "prepare"]) == (3, [("prepare", 2)])
    for claim in held:
        claim.release()


def test_work_goes_first_to_where_the_fewest_others_are(store):
    with store.claim(Run(0, 0)), store.claim(Run(1, 0)), store.claim(Run(1, 1)):
        _, events = do(store)
    assert [event[1] for event in events if event[0] == "prepare"] == [2, 0, 1]


def test_work_begins_at_the_end_where_others_are_at_work(store):
    with store.claim(Run(1, 0)):
        _, events = do(store)
    assert events[:4] == [("prepare", 0), (0, 2), (0, 1), (0, 0)]
    assert events[-3:] == [("prepare", 1), (1, 2), (1, 1)]


def test_work_notes_a_failure_and_goes_on(store):
    ended = []
    count, _ = do(store, fail=[Run(1, 1)], finished=lambda *words: ended.append(words))
    assert count == 8
    ((run, failure),) = store.failures(RUNS)
    assert run == Run(1, 1)
    assert "FloatingPointError: not finite" in failure["traceback"]
    assert [str(error) for _, metrics, error, _ in ended if metrics is None] == ["not finite"]
    assert len(ended) == 9
    assert do(store) == (0, [])
    store.forget(RUNS)
    assert do(store)[0] == 1


def test_work_notes_what_fails_in_preparing_for_every_run_and_prepares_once(store):
    count, events = do(store, broken=[1])
    assert count == 6
    assert events.count(("prepare", 1)) == 1
    assert [run.seed for run, _ in store.failures(RUNS)] == [1, 1, 1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_work_lets_go_of_its_claim_where_it_is_stopped(store, stop):
    def stopped(prepared, run):
        raise stop

    with pytest.raises(stop):
        sweep.work(store, RUNS, stopped)
    assert not store.claimed()
    assert not store.failures(RUNS)


def test_work_does_not_call_a_full_disk_the_failure_of_a_run(store, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.files, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        do(store)
    monkeypatch.undo()
    assert not store.failures(RUNS)
    assert do(store)[0] == 9


def test_work_notes_a_metric_that_is_no_number_as_a_failure(store):
    values = {Run(0): float("nan"), Run(1): 1.5}
    assert sweep.work(store, list(values), lambda prepared, run: {"deep": {"value": values[run]}}) == 1
    ((run, failure),) = store.failures(values)
    assert run == Run(0)
    assert "['deep']['value']" in failure["error"]
    assert store.read(Run(1))["metrics"] == {"deep": {"value": 1.5}}
