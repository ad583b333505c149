"""The runs of a study, done one by one by any number of processes that share its folder."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from rich.console import Console

from experiments.shared.methods import Method
from experiments.shared.pages import counted, duration
from experiments.shared.profiling import Profiled
from jaxprune import records, sweep

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
      store: the folder; None on all processes of one program but the first.
      mine: the runs that this command may do.
    """

    study: Any
    asked: Any
    settings: Any
    inputs: Any
    runs: Sequence[Any]
    store: Any
    mine: Sequence[Any]

    def key(self, run: Any) -> str:
        """Names a run, as its record is named."""
        return records.key(self.study.name, run, version=self.study.version, data=self.inputs.fingerprint)

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

    def status(self, run: Any) -> str:
        """Says how a run stands: why it failed, or who does it."""
        state = self.state(run)
        why = {"failed": lambda: self.store.failures([run])[0][1]["error"], "running": lambda: self.store.holder(run)}
        return f"{state:8} {self.name(run)}" + (f": {why[state]()}" if state in why else "")

    def name(self, run: Any) -> str:
        """Names a run by the fields in which the runs of the study differ, a method by its word."""
        telling = self._telling[type(run)]
        method = [run.word] if isinstance(run, Method) and any(hasattr(Method, name) for name in telling) else []
        return "  ".join([*method, *(f"{name} {getattr(run, name)}" for name in telling)])

    @cached_property
    def _telling(self) -> dict[type, list[str]]:
        kinds = {kind: [one for one in self.runs if type(one) is kind] for kind in {*map(type, self.runs)}}
        fields = {kind: [field.name for field in dataclasses.fields(kind)] for kind in kinds}
        return {
            kind: [name for name in fields[kind] if len({getattr(one, name) for one in alike}) > 1] or ["seed"]
            for kind, alike in kinds.items()
        }


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


def work(plan: Plan, console: Console, lead: Callable[[Plan, Any], Any] | None = None) -> None:
    """Does the runs that nobody has, until none is left; and waits for those of others, if that was asked for.

    A run whose process has died is free again.  A worker, and a shard, ends as soon as nothing is free.

    Args:
      plan: of the study.
      console: where lines go.
      lead: (plan, measure) -> what prepares and measures on all processes of one program, in ``prepare`` and
        ``measure``; None: this process does.
    """
    study, store, alone = plan.study, plan.store, not plan.settings.worker and len(plan.mine) == len(plan.runs)
    progress = _Progress(plan, console)
    folder = plan.settings.profile
    measure = study.measure if folder is None else Profiled(study.measure, folder)
    prepare = partial(study.prepare, plan.settings, plan.inputs)
    if lead is not None:
        leader = lead(plan, measure)
        prepare, measure = leader.prepare, leader.measure
    store.sweep()
    todo = sum(store.state(one) in ("waiting", "running") for one in plan.mine)
    console.print(f"{len(plan.runs)} runs, {todo} of them to do here.", highlight=False)
    waited = False
    while True:
        states = [store.state(one) for one in plan.mine]
        if "waiting" in states:
            sweep.work(
                store,
                plan.mine,
                measure,
                prepare=prepare,
                shared=study.shared,
                finished=progress,
            )
            if states == [store.state(one) for one in plan.mine]:
                time.sleep(_PATIENCE)  # somebody takes and drops them
        elif alone and "running" in states:
            if not waited:
                console.print(f"Waiting for {counted(states.count('running'), 'run')} that other processes do.")
                waited = True
            time.sleep(_PATIENCE)
        else:
            store.sweep()
            return


class _Progress:
    """A line for each run that is finished here: how many there are, and how long the others will take."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console, self._seconds = plan, console, []

    def __call__(self, run: Any, metrics: Any, error: Exception | None, seconds: float) -> None:
        if error is not None:
            self._say(run, f"failed: {type(error).__name__}: {error}")
            return
        self._seconds.append(seconds)
        states = [self._plan.state(one) for one in self._plan.mine]
        left = states.count("waiting") + states.count("running")
        each = sum(self._seconds) / len(self._seconds) / (states.count("running") + 1)
        time_left = f"  about {duration(left * each)} left" if left else ""
        self._say(run, f"{self._plan.study.outcome(run, metrics)}{time_left}")

    def _say(self, run: Any, text: str) -> None:
        done, total = self._plan.done(), len(self._plan.runs)
        line = f"[{done:{len(str(total))}}/{total}] {self._plan.name(run)}  {text}"
        # Messages hold brackets, which rich would take for styles.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
