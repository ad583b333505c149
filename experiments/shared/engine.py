"""Many machines: workers of a study as jobs of submitit, on Slurm or on this machine.

Nothing is scheduled here.  Every job is the same worker; the folder of results says what is left to do, so that a job
that is lost, preempted or started twice costs nothing but its time.
"""

import dataclasses
import importlib
from typing import Any

from rich.console import Console

from experiments.shared.work import Plan

_IN_VAIN = 3  # a job that is preempted in its first run may do better next time


def submit(plan: Plan, console: Console) -> None:
    """Has workers do the runs of a study, and waits for them; again, as long as they get on and runs are left."""
    jobs_of = executor(plan.settings)
    worker = dataclasses.replace(plan.asked, engine="", worker=True, retry=False)
    todo, in_vain = _left(plan), 0
    while todo and in_vain < _IN_VAIN:
        count = min(plan.settings.workers, todo)
        console.print(f"{todo} runs to do, by {count} jobs; their logs: {plan.settings.out}/jobs.", highlight=False)
        jobs = jobs_of.map_array(_work, [plan.study] * count, [worker] * count)
        for job in jobs:
            job.wait()
        before, todo = todo, _left(plan)
        in_vain = in_vain + 1 if todo == before else 0
    if todo:
        raise OSError(f"engine: {_IN_VAIN} times no job finished a run. See their logs in {plan.settings.out}/jobs")


def executor(settings: Any) -> Any:
    """Makes what submits.

    Raises:
      ModuleNotFoundError: submitit is not installed.
      ValueError: its executor does not know an option.
    """
    try:
        submitit = importlib.import_module("submitit")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "engine: submitit is not installed. Do pip install submitit, or pip install -e '.[sweeps]'."
        ) from None
    options: dict[str, Any] = dict(option.split("=", 1) for option in settings.engine_options)
    try:
        made = submitit.AutoExecutor(folder=settings.out / "jobs", cluster=options.pop("cluster", None))
        made.update_parameters(**{name: int(one) if one.isdecimal() else one for name, one in options.items()})
    except (TypeError, NameError, AssertionError, ValueError, RuntimeError) as error:
        raise ValueError(f"engine_options: {str(error).splitlines()[0]}") from None
    return made


def _left(plan: Plan) -> int:
    return sum(plan.state(one) == "waiting" for one in plan.mine)


def _work(study: Any, settings: Any) -> None:
    """What a job does."""
    from experiments.shared.study import run

    run(study, settings)
