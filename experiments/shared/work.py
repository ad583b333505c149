"""The runs of a study, done one by one by any number of processes that share its folder."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from experiments.shared.pages import duration
from jaxprune import records
from jaxprune.store import Store

_PATIENCE = 1.0  # seconds between two looks at runs that others hold


@dataclass(frozen=True)
class Plan:
    """A study with its settings, its runs and where they are kept.

    Attributes:
      study: of ``experiments.shared.study``.
      asked: the settings as they were given.
      settings: the same, with everything filled in.
      inputs: what ``open`` returned.
      runs: all of them.
      store: the folder.
      mine: the runs that this command may do.
    """

    study: Any
    asked: Any
    settings: Any
    inputs: Any
    runs: Sequence[Any]
    store: Store
    mine: Sequence[Any]

    def done(self) -> int:
        """Counts the records, of all runs."""
        return sum(self.store.path(one).exists() for one in self.runs)

    def counts(self) -> str:
        """Says how many runs there are, how many are done, how many failed, and how many are to be done here."""
        states = [self.state(one) for one in self.mine]
        done, failed = states.count("done"), 0 if self.settings.retry else states.count("failed")
        kept = f", failed {failed}" if failed else ""
        return f"runs {len(states)}, done {done}{kept}, to do {len(states) - done - failed}"

    def state(self, run: Any) -> str:
        """Says what has become of a run: done, failed, running or waiting."""
        return self.store.state(run)

    def name(self, run: Any) -> str:
        """Names a run by the fields in which the runs of the study differ."""
        fields = [field.name for field in dataclasses.fields(run)]
        alike = [other for other in self.runs if type(other) is type(run)]
        telling = [name for name in fields if any(getattr(one, name) != getattr(run, name) for one in alike)]
        return "  ".join(f"{name} {getattr(run, name)}" for name in telling or ["seed"])


def part(runs: Sequence[Any], shard: str, shared: Callable[[Any], Hashable]) -> list[Any]:
    """Returns the runs of a shard "i/n", in their order.

    Runs that share what is prepared stay together, unless there are more shards than such groups.

    >>> part(["a0", "a1", "b0", "b1"], "2/2", lambda run: run[0])
    ['b0', 'b1']
    >>> part(["a0", "a1", "b0", "b1"], "2/4", lambda run: run[0])
    ['a1']
    """
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard: expected i/n with 1 <= i <= n, such as 2/4, but got {shard!r}.")
    groups = [[one for one in runs if shared(one) == key] for key in dict.fromkeys(map(shared, runs))]
    if len(groups) < int(count):
        groups = [[one] for one in runs]
    return [one for group in groups[int(index) - 1 :: int(count)] for one in group]


def work(plan: Plan, console: Console) -> None:
    """Does the runs that nobody has, until none is left; and waits for those of others, if that was asked for.

    A run whose process has died is free again.  A worker, and a shard, ends as soon as nothing is free.
    """
    store, alone = plan.store, not plan.settings.worker and len(plan.mine) == len(plan.runs)
    progress = _Progress(plan, console)
    store.sweep()
    console.print(f"{len(plan.runs)} runs, {len(store.missing(plan.mine))} of them to do here.", highlight=False)
    waited = False
    while True:
        states = [store.state(one) for one in plan.mine]
        if "waiting" in states:
            _take(plan, progress)
            if states == [store.state(one) for one in plan.mine]:
                time.sleep(_PATIENCE)  # somebody takes and drops them
        elif alone and "running" in states:
            if not waited:
                console.print(f"Waiting for {states.count('running')} runs that other processes do.")
                waited = True
            time.sleep(_PATIENCE)
        else:
            store.sweep()
            return


def _take(plan: Plan, progress: "_Progress") -> None:
    """Goes once through all runs, those that share a world together; first to worlds that few others are at."""
    store, shared = plan.store, plan.study.shared
    groups: dict[Hashable, list[Any]] = {}
    for one in plan.mine:
        groups.setdefault(shared(one), []).append(one)
    while groups:
        states = {key: [store.state(one) for one in group] for key, group in groups.items()}
        key = min(groups, key=lambda one: (states[one].count("running"), -states[one].count("waiting")))
        world = _World(plan, key)
        for one in groups.pop(key):
            _do(plan, one, world, progress)


class _World:
    """What runs share, prepared when the first of them asks for it; where that fails, it fails for all of them."""

    def __init__(self, plan: Plan, key: Hashable) -> None:
        self._plan, self._key = plan, key
        self._made: Any = None
        self._error: Exception | None = None

    def __call__(self) -> Any:
        if self._error is not None:
            raise self._error
        if self._made is None:
            try:
                self._made = (self._plan.study.prepare(self._plan.settings, self._plan.inputs, self._key),)
            except Exception as error:
                self._error = error
                raise
        return self._made[0]


def _do(plan: Plan, run: Any, world: _World, progress: "_Progress") -> None:
    claim = plan.store.claim(run)
    if claim is None:
        return
    with claim:
        start = time.perf_counter()
        try:
            shared = world()
            start = time.perf_counter()
            metrics = plan.study.measure(shared, run)
            seconds = time.perf_counter() - start
        except Exception as error:
            plan.store.fail(run, error, time.perf_counter() - start)
            progress.failed(run, error)
            return
        # What is measured by a clock is no metric: it would differ from run to run.
        aside = metrics.pop("provenance", {})
        provenance = records.provenance(plan.inputs.fingerprint, seconds)
        plan.store.write(run, metrics, {**provenance, **aside})
    progress.done(run, metrics, seconds)


class _Progress:
    """A line for each run that is finished here: how many there are, and how long the others will take."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console, self._seconds = plan, console, []

    def done(self, run: Any, metrics: dict[str, Any], seconds: float) -> None:
        """Says that a run is done."""
        self._seconds.append(seconds)
        states = [self._plan.state(one) for one in self._plan.mine]
        left = states.count("waiting") + states.count("running")
        each = sum(self._seconds) / len(self._seconds) / (states.count("running") + 1)
        time_left = f"  about {duration(left * each)} left" if left else ""
        self._say(run, f"{self._plan.study.said(run, metrics)}{time_left}")

    def failed(self, run: Any, error: Exception) -> None:
        """Says that a run failed."""
        self._say(run, f"failed: {type(error).__name__}: {error}")

    def _say(self, run: Any, text: str) -> None:
        done, total = self._plan.done(), len(self._plan.runs)
        line = f"[{done:{len(str(total))}}/{total}] {self._plan.name(run)}  {text}"
        # Messages hold brackets, which rich would take for styles.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
