"""Runs done by any number of processes, on any machines, that share a folder: whoever is free takes the next one."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from jaxprune import records
from jaxprune.store import Store

Finished = Callable[[Any, Mapping[str, Any] | None, Exception | None, float], None]
"""(run, its metrics, or None; why it failed, or None; seconds)."""


def work(
    store: Store,
    runs: Iterable[Any],
    measure: Callable[[Any, Any], Mapping[str, Any]],
    *,
    prepare: Callable[[Any], Any] = lambda key: None,
    shared: Callable[[Any], Hashable] = lambda run: None,
    finished: Finished = lambda run, metrics, error, seconds: None,
) -> int:
    """Goes once through runs, and does those that nobody has done or does.

    Runs that share what is prepared follow each other, and every process goes first to where the fewest others are, so
    that hardly anything is prepared twice.  Where others are at work already it begins at the end, since runs beside
    each other may share results, and those of equal methods programs.  A run that fails is noted with its traceback,
    and the others go on; what fails in preparing fails for all runs that need it.

    Args:
      store: where records, failures and claims are.
      runs: configurations (dataclasses).
      measure: (what was prepared, run) -> metrics.  What lies under "provenance" in them is kept beside the metrics and
        does not enter the digest: what a clock has measured.
      prepare: what ``shared`` gave -> what its runs need.
      shared: run -> what tells apart what is prepared.
      finished: is called for every run that ends here.

    Returns:
      How many runs were published.

    Raises:
      OSError: a record cannot be written, as on a full disk.

    >>> import dataclasses, tempfile
    >>> @dataclasses.dataclass(frozen=True)
    ... class Run:
    ...     seed: int
    >>> store = Store(tempfile.mkdtemp(), "squares")
    >>> work(store, [Run(2), Run(3)], lambda prepared, run: {"square": run.seed**2})
    2
    >>> store.read(Run(3))["metrics"]
    {'square': 9}
    """
    groups: dict[Hashable, dict[str, Any]] = {}
    for run in runs:
        groups.setdefault(shared(run), {})[store.key(run)] = run
    published = 0
    while groups:
        claimed = store.claimed()
        key = min(groups, key=lambda one: len(claimed & groups[one].keys()))
        prepared, group = _Prepared(prepare, key), groups.pop(key)
        order = reversed(group.values()) if claimed else group.values()
        for run in order:
            published += _do(store, run, prepared, measure, finished)
    return published


class _Prepared:
    """What runs share, made when the first of them asks for it."""

    def __init__(self, prepare: Callable[[Any], Any], key: Hashable) -> None:
        self._prepare, self._key = prepare, key
        self._made: list[Any] = []
        self._error: Exception | None = None

    def __call__(self) -> Any:
        if self._error is not None:
            raise self._error
        if not self._made:
            try:
                self._made.append(self._prepare(self._key))
            except Exception as error:
                self._error = error
                raise
        return self._made[0]


def _do(store: Store, run: Any, prepared: _Prepared, measure: Callable[[Any, Any], Any], finished: Finished) -> bool:
    claim = store.claim(run)
    if claim is None:
        return False
    with claim:
        begin = time.perf_counter()
        try:
            shared = prepared()
            begin = time.perf_counter()
            metrics = dict(measure(shared, run))
            aside = metrics.pop("provenance", {})
            records.as_json("metrics", metrics, infinite=False)  # a number that is none is the run's failure
        except Exception as error:
            seconds = time.perf_counter() - begin
            store.fail(run, error, seconds)
            finished(run, None, error, seconds)
            return False
        seconds = time.perf_counter() - begin
        published = store.write(run, metrics, {**records.provenance(store.data, seconds), **aside})
    finished(run, metrics, None, seconds)
    return published
