"""A study done by several processes of one JAX program: the same command on every host.

Process 0 has the folder: it says which run is next, and all of them do it.  What fails on one of them fails on all, and
is kept with its traceback.
"""

import hashlib
import math
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

import experiments
import jaxprune
from experiments.shared import ending, named
from experiments.shared.work import Plan
from jaxprune import processes, records

PATIENCE = 300.0
"""Seconds that a run which failed here waits for the others, which may be waiting for this process inside a program.

More than it takes JAX to find that a process is dead, so that no run is blamed for that.
"""


class FirstFailedError(Exception):
    """Process 0 has ended the study."""


# --------------------------------------------------------------------------------------------------- before anything


def demand_possible(settings: Any) -> None:
    """Checks that several processes can do together what settings say.

    Raises:
      ValueError: they cannot.
    """
    count, devices, size = processes.count(), jax.device_count(), getattr(settings, "batch_size", 0)
    if count > 1 and settings.engine:
        raise ValueError(
            f"engine: expected none where {count} processes of one program do the study. Leave it out; or start one "
            "process, whose jobs are independent workers."
        )
    if count > 1 and size % devices:
        raise ValueError(
            f"batch_size: expected a multiple of {devices}, the devices of all {count} processes, but got {size}. "
            "Choose another one, or start independent workers with --worker."
        )


def opened(make: Callable[[], Plan]) -> Plan:
    """Opens a study on all processes, and checks that it is the same one.

    Raises:
      ValueError: they differ, or one of them could not open it, on all of them; or they do not share the folder.
    """
    if processes.count() == 1:
        return make()
    made, error = None, None
    try:
        made = make()
    except (ValueError, TypeError, MemoryError, OSError, ImportError) as caught:
        error = caught
    said = {"error": str(error)} if made is None else {"same": _identity(made)}
    processes.realign()  # what failed may have left calls out
    found = processes.gathered("settings", said, limit=math.inf)
    if error is not None:
        raise error
    assert made is not None
    for place, one in enumerate(found):
        if "error" in one:
            raise ValueError(f"process {place}: {one['error']}")
    every = [one["same"] for one in found]
    for name in dict.fromkeys(name for one in every for name in one):  # in one order on all of them
        if any(one.get(name) != every[0].get(name) for one in every):
            processes.agree(name, every[processes.index()].get(name))
    processes.demand_shared("out", made.settings.out)
    return made


def _identity(plan: Plan) -> dict[str, Any]:
    """All that decides what is computed, by the names of those who can mend it."""
    settings = {name: _shown(value) for name, value in vars(plan.asked).items()}
    about = records.provenance("", 0.0)
    return {
        "study": plan.study.name,
        **settings,
        "code": _code(),
        "versions": {**about["packages"], "python": about["python"]},
        "jax_enable_x64": jax.dtypes.canonicalize_dtype("float64") == "float64",
        "devices of a process": jax.local_device_count(),
        "data": plan.inputs.fingerprint,
        "runs": records.digest([plan.key(one) for one in plan.runs]),
    }


def _shown(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_shown(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(named.name(value))


def _code() -> str:
    """Hashes the source of the library and of the studies."""
    total = hashlib.sha256()
    for package in (jaxprune, experiments):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            total.update(f"{path.relative_to(root)}:{hashlib.sha256(path.read_bytes()).hexdigest()};".encode())
    return total.hexdigest()[:16]


# -------------------------------------------------------------------------------------------------------- run by run


class Leader:
    """What process 0 does in place of preparing and measuring: it says what is next, and does it with all others.

    Args:
      plan: of the study.
      measure: what measures a run here.
    """

    def __init__(self, plan: Plan, measure: Callable[[Any, Any], Mapping[str, Any]]) -> None:
        self._plan, self._measure = plan, measure
        self._places = {plan.key(run): place for place, run in reversed([*enumerate(plan.runs)])}
        self._world: Any = None
        self._whole = False

    def prepare(self, shared: Any) -> Any:
        """Prepares what runs share, on all processes; returns what ``measure`` is to be given."""
        plan, self._world, self._whole = self._plan, None, False
        run = next(one for one in plan.runs if plan.study.shared(one) == shared)
        self._world = self._all("prepare", run, lambda: plan.study.prepare(plan.settings, plan.inputs, shared))
        self._whole = True
        return shared

    def measure(self, shared: Any, run: Any) -> Mapping[str, Any]:
        """Measures a run on all processes."""
        if not self._whole:  # what a failure has left behind may differ from process to process
            self.prepare(shared)
        self._whole = False
        metrics = self._all("measure", run, lambda: self._measure(self._world, run))
        self._whole = True
        return metrics

    def _all(self, what: str, run: Any, function: Callable[[], Any]) -> Any:
        processes.first(lambda: [what, self._places[self._plan.key(run)]], what="order")
        try:
            made, error = _everywhere(what, function)
        except ending.LostError as lost:
            ending.note(self._plan, run, lost.__cause__)
            raise
        if error is not None:
            raise error
        return made


def end(path: Path, failed: int) -> None:
    """Tells the other processes that nothing is left to do, where the page lies, and how many runs failed."""
    processes.first(lambda: ["end", [str(path), failed]], what="order")


def give_up(error: Exception) -> None:
    """Tells the other processes why the first one ends."""
    processes.first(lambda: ["failed", f"{type(error).__name__}: {error}"], what="order")


def follow(plan: Plan) -> tuple[Path, int]:
    """Does on another process what process 0 says, until nothing is left; returns what ``end`` was given.

    Raises:
      FirstFailedError: process 0 has failed.
      LostError: a run failed here, and others do not come out of it.
    """
    world = None
    while True:
        # Process 0 may wait for hours for runs that somebody else does.
        what, about = processes.first(list, what="order", limit=math.inf)
        if what == "end":
            return Path(about[0]), about[1]
        if what == "failed":
            raise FirstFailedError(f"process 0 failed with {about}")
        run, study = plan.runs[about], plan.study
        try:
            if what == "prepare":
                world, key = None, study.shared(run)
                world, _ = _everywhere(what, partial(study.prepare, plan.settings, plan.inputs, key))
            else:
                _everywhere(what, partial(study.measure, world, run))
        except ending.LostError as lost:
            lost.failure = {"run": about, **_said(lost.__cause__)}
            raise


def _everywhere(what: str, function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Calls a function that all processes call; returns (its result, why it failed on one of them).

    Whatever one of them left out, all meet here, as this is called once for every order.

    Raises:
      LostError: it failed here, and others do not come out of it.
    """
    made, numbers, error = None, {}, None
    try:
        made = function()
        if what == "measure":
            numbers = _digests(made)
    except Exception as caught:
        error = caught
    said = {"numbers": numbers} if error is None else _said(error)
    processes.realign()
    try:
        found = processes.gathered(what, said, limit=math.inf if error is None else PATIENCE)
    except RuntimeError as lost:
        if error is None:
            raise
        raise ending.LostError(f"{type(error).__name__}: {error}; and {lost}") from error
    return made, error or _of_others(found)


def _said(error: BaseException | None) -> dict[str, str]:
    assert error is not None
    return {"error": f"{type(error).__name__}: {error}", "traceback": "".join(traceback.format_exception(error))}


def _digests(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Hashes what enters a record, as it is written there; what a clock measured may differ.

    Raises:
      TypeError, ValueError: a metric is nothing that a record has (the message names it).
    """
    written = {name: one for name, one in metrics.items() if name != "provenance"}
    found = records.as_json("metrics", written, infinite=False)
    return {name: records.digest(one) for name, one in found.items()}


def _of_others(found: list[dict[str, Any]]) -> Exception | None:
    for place, one in enumerate(found):
        if "error" in one:
            return ending.remote(place, one)
    every = [one["numbers"] for one in found]
    differing = [name for name in every[0] if any(one.get(name) != every[0][name] for one in every)]
    if differing or any(one.keys() != every[0].keys() for one in every):
        return ValueError(
            f"metrics: expected the same on all {len(found)} processes, but they differ in "
            f"{', '.join(differing) or 'their names'}. Use equal hosts; a function of your own must not draw by itself."
        )
    return None
