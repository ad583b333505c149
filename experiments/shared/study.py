"""What every study is: settings -> runs -> records -> results -> claims -> a page.  A study fills in the functions."""

import contextlib
import dataclasses
import io
import json
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import tyro
from rich.console import Console

from experiments.shared import ending, engine, named, pages, together
from experiments.shared.pages import counted
from experiments.shared.profiling import keep_programs
from experiments.shared.results import Claim, Results, Table, complete, metrics, verdicts
from experiments.shared.settings import Execution, check_execution
from experiments.shared.work import Plan, part, work
from jaxprune import exclusive, files, processes, report
from jaxprune.store import Store

BROKEN, BAD_INPUT, FAILED_RUNS, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
"""The exit codes of a study, beside 0."""


class Study(NamedTuple):
    """A study as data: functions, from the settings to the page.

    Attributes:
      name: enters the key of every record.
      open: settings -> inputs.  Every bad value is found here.  ``inputs.fingerprint`` names the data, and enters every
        key; ``inputs.settings``, if it is there, are the settings with everything filled in that was left open.
      plan: (settings, inputs) -> runs: frozen dataclasses of all that decides a record, one field of them ``seed``.
      shared: run -> what is prepared once for all runs that have an equal one, such as their seed.
      prepare: (settings, inputs, shared) -> world.
      measure: (world, run) -> metrics, as JSON has them.
      claims: settings -> what is tested.
      page: (settings, results, tested) -> the page.
      version: of the method: raised whenever the same settings give other numbers, so that no old record is used.
      apart: run -> what is left out of tables and page if it fails, in all seeds, such as its score; None: its seed.
      results: (inputs, records) -> the records looked up by what decides them.
      tables: (settings, results, tested) -> further tables, by the name of their file.
      outcome: (run, metrics) -> what the line of a finished run says.
      summary: (settings, results, tested) -> what is printed at the end.
      estimate: (settings, inputs, console): what a dry run says beside the number of runs.
    """

    name: str
    open: Callable[[Any], Any]
    plan: Callable[[Any, Any], Sequence[Any]]
    shared: Callable[[Any], Hashable]
    prepare: Callable[[Any, Any, Any], Any]
    measure: Callable[[Any, Any], dict[str, Any]]
    claims: Callable[[Any], Sequence[Claim]]
    page: Callable[[Any, Any, Table], report.Page]
    version: int = 1
    apart: Callable[[Any], Hashable] = lambda run: None
    results: Callable[[Any, Sequence[dict[str, Any]]], Any] = lambda inputs, records: Results(records, inputs)
    tables: Callable[[Any, Any, Table], dict[str, Table]] = lambda settings, results, tested: {}
    outcome: Callable[[Any, dict[str, Any]], str] = lambda run, metrics: ""
    summary: Callable[[Any, Any, Table], Any] = lambda settings, results, tested: pages.tally(tested)
    estimate: Callable[[Any, Any, Console], None] = lambda settings, inputs, console: None


class Outcome(NamedTuple):
    """Where the page of a study lies, or its folder while there is none; and how many of its runs failed."""

    path: Path
    failed: int


def run(study: Study, settings: Any, console: Console | None = None) -> Path:
    """Computes what is missing of a study, tests its claims, and writes its tables and page.

    A run that fails is kept with its traceback, and the others go on.  Of several processes of one JAX program all have
    to call this, with the same settings and a folder that they share: process 0 says which run is next, and all do it.

    Returns:
      The page; or the folder, where there is no page yet: a dry run, or runs that are left to others.

    Raises:
      ValueError: bad settings, or processes that differ, before anything is computed.
    """
    return _carry_out(_begin(study, settings), console or Console()).path


def command(study: Study, settings: type[Any], description: str | None) -> NoReturn:
    """Runs a study from the command line; whatever a user can mend ends in one line.

    Exit codes: 0; 1 something broke; 2 bad input; 3 some runs failed; 130 and 143 stopped by Ctrl-C and by SIGTERM.
    """
    console, plan = Console(), None
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    # Of the process as it starts: what training does with a signal ends in the same exceptions.
    signal.signal(signal.SIGTERM, _terminate)
    unwatch = lambda: None  # noqa: E731
    try:
        try:
            asked = _read(study.name, settings, description)
            if not asked.worker and ending.joined():
                # JAX takes the signal for itself, and would hear it between the steps of a training only.
                signal.signal(signal.SIGTERM, _terminate)
                console, unwatch = Console(quiet=not processes.is_first()), ending.watch(lambda: plan)
            plan = _begin(study, asked)
        except (ValueError, TypeError, MemoryError, OSError, ImportError) as error:
            unwatch()
            _end(BAD_INPUT, f"error: {error}")
        outcome = _carry_out(plan, console)
    except KeyboardInterrupt:
        _end(INTERRUPTED, f"interrupted: {_kept(plan)}", plan)
    except SystemExit as ended:
        if ended.code == TERMINATED:
            _end(TERMINATED, f"{ending.reason()}: {_kept(plan)}", plan)
        raise
    except (OSError, together.FirstFailedError, ending.LostError) as error:
        # A full disk, a folder that is gone, other processes: not ours, and no traceback helps.
        _end(BROKEN, f"error: {str(error).rstrip('.')}. {_kept(plan)}", plan, error)
    except Exception:
        traceback.print_exc()
        _end(BROKEN, f"error: this is a fault of the study. {_kept(plan)}", plan)
    unwatch()
    _end(FAILED_RUNS if outcome.failed else 0, "")


# -------------------------------------------------------------------------------------------------------------- steps


def _begin(study: Study, settings: Any) -> Plan:
    return together.opened(lambda: _opened(study, settings))


def _opened(study: Study, settings: Any) -> Plan:
    settings = dataclasses.replace(settings, out=Path(settings.out))
    check_execution(settings)
    keep_programs(settings.compile_cache)
    asked, inputs = settings, study.open(settings)
    settings = getattr(inputs, "settings", settings)
    runs = list(study.plan(settings, inputs))
    together.demand_possible(settings)
    made = partial(Store, settings.out, study.name, version=study.version, data=inputs.fingerprint)
    store = made() if processes.is_first() else None
    plan = Plan(study, asked, settings, inputs, runs, store, part(runs, settings.shard, study.shared))
    if len({plan.key(one) for one in runs}) < len(runs):
        raise ValueError("plan: expected runs that differ, but two of them are equal. Name every value once.")
    if settings.engine:
        engine.executor(settings)  # raises where it cannot be had
    return plan


def _carry_out(plan: Plan, console: Console) -> Outcome:
    """Does a study; of several processes the first one leads, and the others follow."""
    if processes.count() == 1:
        return _done(plan, console)
    if not processes.is_first():
        return Outcome(*together.follow(plan))
    try:
        outcome = _done(plan, console)
    except Exception as error:
        together.give_up(error)
        raise
    together.end(*outcome)
    return outcome


def _done(plan: Plan, console: Console) -> Outcome:
    study, settings, store = plan.study, plan.settings, plan.store
    if settings.status:
        for one in plan.runs:
            console.print(plan.status(one), highlight=False, soft_wrap=True, markup=False)
    if settings.dry_run:
        study.estimate(settings, plan.inputs, console)
    if settings.dry_run or settings.status:
        if others := store.strangers(plan.runs):
            line = (
                f"{counted(others, 'record')} of other settings, data or methods lie there too, and stay as they are."
            )
            console.print(line, highlight=False, soft_wrap=True)
        console.print(plan.counts(), highlight=False)
        return Outcome(settings.out, 0)
    if settings.retry:
        store.forget(plan.mine)
    if settings.engine:
        engine.submit(plan, console)
    else:
        work(plan, console, together.Leader if processes.count() > 1 else None)
    return finish(plan, console)


def finish(plan: Plan, console: Console) -> Outcome:
    """Writes tables and page of a study of which no run is left to be done; of another one, says how many are."""
    study, settings, store = plan.study, plan.settings, plan.store
    failed = store.failures(plan.runs)
    made = [(one, store.read(one)) for one in plan.runs if store.has(one)]
    if left := len(plan.runs) - len(made) - len(failed):
        line = f"{counted(left, 'run')} left to others; the page is written by whichever command finishes last."
        console.print(line, highlight=False, soft_wrap=True)
        return Outcome(settings.out, len(failed))
    kept, left_out = complete(made, [one for one, _ in failed], study.apart)
    path, notice = settings.out / "index.html", pages.failures(failed, plan.name, left_out) if failed else ""
    if kept:
        results = study.results(plan.inputs, kept)
        tested = verdicts(results, study.claims(settings))
        page, tables = study.page(settings, results, tested), study.tables(settings, results, tested)
        console.print(study.summary(settings, results, tested))
    else:
        page, tables, tested = report.Page(study.name, "Nothing can be compared."), {}, verdicts(None, [])
    if failed:
        page.notice(notice)
    tables = {"verdicts": tested, "metrics": metrics([one for _, one in made]), **tables}
    if kept:
        pages.ending(page, command_of(study.name, plan.asked), list(tables), kept)
    with exclusive.wait(settings.out / ".page"):  # of commands that end together, one after the other
        _replace_tables(settings.out, tables)
        page.write(path)
    console.print(f"Tables: {settings.out}/*.csv\nPage:   {path}", highlight=False, soft_wrap=True)
    if failed:
        # Messages hold brackets, which rich would take for styles.
        console.print(notice, style="red", highlight=False, soft_wrap=True, markup=False)
        console.print("--retry tries these runs again.")
    return Outcome(path, len(failed))


def command_of(name: str, settings: Any) -> str:
    """Writes the command that computes what these settings say: those that are not at their defaults.

    Of paths from the root only the last part is shown, since where they lead is nobody else's business.
    """
    ways = {field.name for field in dataclasses.fields(Execution)} - {"seeds", "out"}  # nothing depends on them
    words = [f"python -m experiments.{name}"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in ways or value == field.default:
            continue
        listed = value if isinstance(value, tuple | list) else [] if value is True else [value]
        plain = (one if isinstance(one, int | float | Path) else named.name(one) for one in listed)
        shown = [shlex.quote(_without_root(str(one))) for one in plain]
        words.append(" ".join([f"--{field.name.replace('_', '-')}", *shown]))
    return " ".join(words)


def _without_root(word: str) -> str:
    """Cuts a path to its last part; of "folder:/a/b" too.

    >>> _without_root("/a/b"), _without_root("folder:/a/b"), _without_root("tfds:mnist"), _without_root("a/b")
    ('.../b', 'folder:.../b', 'tfds:mnist', 'a/b')
    """
    kind, colon, path = word.rpartition(":")
    return f"{kind}{colon}.../{Path(path).name}" if Path(path).is_absolute() else word


def _replace_tables(out: Path, tables: dict[str, Table]) -> None:
    """Writes the tables of these settings; those of settings that ran here before go."""
    listed = out / "tables.json"
    before = json.loads(listed.read_text()) if listed.exists() else []
    for name in set(before) - set(tables):
        (out / f"{name}.csv").unlink(missing_ok=True)
    files.write_json(listed, sorted(tables))
    for name, frame in tables.items():
        files.write(out / f"{name}.csv", frame.to_csv(index=False))


# -------------------------------------------------------------------------------------------------- the command line


def _read(name: str, settings: type[Any], description: str | None) -> Any:
    """Reads the settings; what cannot be read, and a word that is no option of this study, is an error of one line."""
    main = sys.modules["__main__"].__spec__
    program = f"python -m {main.name.removesuffix('.__main__')}" if main else sys.argv[0]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            found, unknown = tyro.cli(
                settings,
                prog=program,
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        # A box: its heading, the message, and from a line on the help of the option.
        lines = [line.strip("│╭╮╰╯─- ") for line in shown.getvalue().splitlines()]
        message = " ".join(line for line in lines[1:] if line)
        for rest in ("Argument helptext", "For full helptext"):
            message = message.partition(rest)[0].strip(" .")
        raise ValueError(f"{message}. See {program} --help.") from None
    if unknown:
        wrong = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise ValueError(f"{wrong}: the study {name} has no such option. See {program} --help.")
    return found


def _terminate(*_: Any) -> NoReturn:
    raise SystemExit(TERMINATED)


def _kept(plan: Plan | None) -> str:
    if plan is None:
        return "nothing was computed."
    with contextlib.suppress(OSError):
        if plan.store is not None:
            done, out = plan.done(), plan.settings.out
            return f"{done} of {len(plan.runs)} runs are kept in {out}; the same command does the others."
    return f"What is done is kept in {plan.settings.out}; the same command does the others."


def _end(code: int, line: str, plan: Plan | None = None, error: BaseException | None = None) -> NoReturn:
    if line:
        print(line, file=sys.stderr, flush=True)
    if code in (BROKEN, INTERRUPTED, TERMINATED) and ending.has_joined():
        ending.leave(code, plan, error)
    if code in (INTERRUPTED, TERMINATED):
        sys.stdout.flush()
        # XLA may still be compiling in threads of its own, and crashes in an interpreter that shuts down.
        _leave(code)
    raise SystemExit(code)


_leave = os._exit
