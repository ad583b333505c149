"""Which method prunes best, at equal data, equal gradients and equal sparsity?

Every score, update and control side by side, with baselines of the literature: accuracy as it stands and after
fine-tuning, what it took, and what a quadratic and a linearised network predict of it.
"""

from typing import Any

from experiments.methods import page
from experiments.methods.measures import measure, prepare_seed
from experiments.methods.results import claims, table
from experiments.methods.settings import Run, Settings, open_study, plan
from experiments.shared import study
from experiments.shared.methods import DENSE


def outcome(run: Run, metrics: dict[str, Any]) -> str:
    """Says what came out of a run."""
    del run
    shares = [metrics[stage].count("1") / len(metrics[stage]) for stage in ("pruned", "finetuned")]
    return f"accuracy {shares[0]:.3f} -> {shares[1]:.3f}"


__all__ = ["STUDY", "Settings"]

STUDY = study.Study(
    name="methods",
    version=2,  # 2: every baseline is tried with every option; other images
    open=open_study,
    plan=plan,
    shared=lambda run: run.seed,
    prepare=prepare_seed,
    measure=measure,
    apart=lambda run: None if run.word == DENSE.word else run.word,
    claims=claims,
    page=page.compose,
    tables=lambda settings, results, tested: {"losses": table(results)},
    outcome=outcome,
)
