"""What does the loss look like around a dense, a pruned and a fine-tuned network?

The networks, the tasks, the frozen heads and the splits are those of the transfer study.  Around every network, on the
task that pruned and fine-tuned it and on one it was never shown, this measures the curvature in the weights that it
has, whether the two tasks agree about the sharpest directions, what a Taylor expansion predicts of pruning, slices of
the loss, and barriers between networks.
"""

from typing import Any

from experiments.landscape import page
from experiments.landscape.measures import measure, prepare_seed
from experiments.landscape.results import Results, claims
from experiments.landscape.settings import Run, Settings, open_study, plan
from experiments.shared import study
from experiments.shared.methods import DENSE


def outcome(run: Run, metrics: dict[str, Any]) -> str:
    """Says what came out of a run."""
    del run
    shown = [metrics["curvature"][stage]["source"]["eigenvalues"][0] for stage in ("pruned", "finetuned")]
    return f"largest eigenvalue {shown[0]:.3g} -> {shown[1]:.3g}"


__all__ = ["STUDY", "Settings"]

STUDY = study.Study(
    name="landscape",
    version=4,  # 2: other SynFlow and Fisher scores; 3: the rate of fine-tuning is chosen; 4: methods of three axes
    open=open_study,
    plan=plan,
    shared=lambda run: run.seed,
    prepare=prepare_seed,
    measure=measure,
    apart=lambda run: None if run.word == DENSE.word else run.word,
    results=lambda inputs, records: Results(records, inputs),
    claims=claims,
    page=page.compose,
    tables=page.tables,
    outcome=outcome,
)
