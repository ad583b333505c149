"""What the study of joint pruning found, and how it was done, in sentences."""

from typing import Any

import numpy as np

from experiments.joint.figures import BUDGETS, label
from experiments.joint.options import OBJECTIVES, method_of
from experiments.joint.results import (
    CONTROLS,
    SLACK,
    Networks,
    Results,
    accuracy_of,
    change_between,
    dense_of,
    mean_removed,
)
from experiments.joint.settings import CONTROL, FRACTIONS, quirks
from experiments.shared.pages import DATA, INTERVALS, chosen, counted, percent, spread
from experiments.shared.results import Table
from jaxprune import stats


def opening(settings: Any, results: Results, tested: Table) -> str:
    """Says what was asked and what was found, whichever way it came out, in sentences made from the verdicts."""
    sentences = [
        f"A network trained on {DATA.get(settings.data, settings.data)} loses layers or neurons, of equal cost, step "
        "by step. Does a choice by similarity of representations keep more of it than a rule, or a coin? Dense, it "
        f"gets {percent(accuracy_of(_first(results)).mean)} right."
    ]
    compared = [(b, c) for b in results.budgets for c in results.pruning(b) if c not in CONTROLS]
    for budget, chooser in compared[:2]:
        networks, others = results.paired(budget, chooser, "dense")
        found = change_between(networks, others).interval
        rows = tested[(tested.budget == budget) & (tested.chooser == chooser)]
        beaten = rows[rows.claim.str.startswith("beats ")]
        at = f" in steps of equal {BUDGETS[budget]}" if len(results.budgets) > 1 else ""
        won = f"; it is shown to beat {int((beaten.verdict == 'holds').sum())} of {counted(len(beaten), 'control')}"
        sentences.append(
            f"Chosen by {label(chooser)}{at}, {percent(mean_removed(networks))} of the operations go, and accuracy "
            f"changes by {spread(found)}{won if len(beaten) else ''}."
        )
    if len(compared) > 2:
        sentences.append("The tables below have the other choosers.")
    return " ".join(sentences)


def notices(settings: Any, results: Results) -> list[str]:
    """Says what a reader must know before any number: of training that differs, and of leaks."""
    tuned = _tuned(results)
    gained = change_between(tuned, dense_of(tuned)).interval if tuned else stats.Interval(0.0, -np.inf, np.inf)
    unready = (
        f"The dense network had not converged: tuned on for as many steps, without pruning, it gains {spread(gained)}. "
        "Compare pruned networks with that control."
    )
    lost = f"Tuned on for as many steps, without pruning, the dense network changes by {spread(gained)}."
    most = min((run.last for run, _ in tuned), default=0)
    longer = sum(run.last > most for run in results.runs if run.chooser != CONTROL)
    unequal = (
        f"{counted(longer, 'pruned network')} took more steps than the control: tuned for longer than what they "
        "are compared with."
    )
    leak = "The choosers looked at the test images, as the paper's code does: accuracy is selected on the test split."
    return [
        unready if gained.low > 0 else lost if gained.high < 0 else "",
        _NO_CONTROL if not tuned else unequal if longer else "",
        leak if settings.choose_on == "test" else "",
    ]


def _first(results: Results) -> Networks:
    return [(run, 0) for run in {run.seed: run for run in results.runs}.values()]


def _tuned(results: Results) -> Networks:
    """The dense network of each seed, tuned as long as a search tunes what it keeps, and not pruned."""
    return [(run, run.last) for run in {run.seed: run for run in results.runs if run.chooser == CONTROL}.values()]


def paid_after(images: float) -> str:
    """Writes a number of images, to two digits: it rests on estimates.

    >>> paid_after(1125614), paid_after(float("nan"))
    ('1,100,000 images', 'never')
    """
    return f"{float(f'{images:.2g}'):,.0f} images" if images > 0 else "never"


_METHOD = """
The search.| In every step a candidate without layers and one without neurons are made of the current network. Both are
tuned for {s.brief_steps} training steps, the chooser keeps one, which is tuned for {s.long_steps} more ({s.optimizer},
rate {s.tune_rate:g}, batches of {s.batch_size}).{parent} It ends when {end}, or when no candidate can be made. Choosers
start from the same dense network of a seed and tune with the same seeds.

Objective, score, update.| {axes}

What a step removes.| Equal {budgets}, {amount}{filters}. {removable} A candidate beyond these floors is not made, and
where only one can be made it is kept without a comparison.

Network and splits.| {network}, trained for {s.pretrain_steps} steps ({s.optimizer}, rate {s.pretrain_rate:g}). Splits
are disjoint and stratified, anew for each seed: {splits}. Training serves the dense network and all tuning, scoring the
criteria. The choosers look at {seen}; accuracy and robustness are of test.

Robustness.| Fifteen corruptions at severities {severities}, made anew for these images; attacks on pixels within ε
(FGSM one step, PGD ten of ε/4), made on each network (white-box), or on the dense one and shown to all (made on dense).
The paper's own ε of FGSM and its severities could not be had: these are ours.

Statistics.| {seeds}. Differences are paired by seed and test image. {intervals} Choosers are compared at the target
where both reached it; else where the first of them ended, each with its last network that has removed no more (give or
take {slack} of the operations). Nothing is interpolated.

Control.| {control}

Time.| That of a network is the median of runs in turns, on the machine named below; that of a search is wall time
without tracing, lowering and compiling, which is measured apart: the searches of one process share compiled programs,
so that the first of them compiles most. What a search has to pay for is its time without compiling. The training of the
dense network is not counted.

Source.| Nascimento et al. (2025), arXiv 2506.04513. Its exact tables were not available to us, and numbers on other
data, networks and training are not comparable with them.
"""

_BLOCKS = (
    "Layers are whole residual blocks with an identity shortcut, rated by the criterion {s.layer_criterion!r}; neurons "
    "are filters inside blocks, rated by {s.neuron_criterion!r} and compared across blocks by {s.allocation!r}. Of "
    "equal candidates the layer is kept. Every stage keeps two blocks, every block a filter."
)
_FOUND = (
    "No layer goes. Neurons are the units of groups that were found in the program of the network and proven by "
    "cutting, rated by {s.neuron_criterion!r} and compared across groups by {s.allocation!r}. Every group keeps one."
)

_CONTROL = (
    "The dense network is tuned, step by step, as a search tunes what it keeps, and not pruned. Networks are compared "
    "with it after as many steps; where a search took more than it has, with its last one."
)
_NO_CONTROL = (
    "Missing: no dense network was trained on for as long as the pruned ones were. What a pruned network gains over "
    "the dense line can be its longer training."
)


def axes(settings: Any) -> str:
    """Says of each kind of step what is to stay, what ranks and what moves the rest, as steps.csv has it."""
    said = []
    for kind, what in (("layer", "Layers"), ("neurons", "Neurons")):
        found = method_of(vars(settings), kind)
        meaning = f" ({OBJECTIVES[found.objective]})" if found.objective in OBJECTIVES else ""
        said.append(f"{what}: {found.objective}{meaning}, {found.score}, {found.update}.")
    return f"{' '.join(said)} The control: none, dense, training."


def _network(settings: Any) -> str:
    if settings.network:
        return f"The network that {settings.network.partition('@')[0]} returns, the same for every seed"
    variant = "in the variant of Keras's examples" if settings.keras else "with BatchNorm"
    return f"CIFAR ResNet of depth {settings.depth} and width {settings.width}, {variant}"


def method(settings: Any, results: Results) -> list[tuple[str, str]]:
    """Says how the study was made, and what it leaves open."""
    parent = f" {chosen(settings.distil)} of the loss is the cross-entropy to the parent's outputs."
    gone = f"{chosen(settings.target)} of the operations are gone"
    text = _METHOD.format(
        s=settings,
        parent=parent if settings.distil else "",
        end=gone if settings.target else "no layer can go any more",
        budgets=" and ".join(BUDGETS[budget] for budget in results.budgets),
        axes=axes(settings),
        amount=f"{chosen(settings.share)} of the dense network" if settings.share else "one block's worth",
        filters=" (by filters: exactly as many as the layer has)" if "filters" in results.budgets else "",
        removable=(_FOUND if settings.network else _BLOCKS).format(s=settings),
        network=_network(settings),
        splits=", ".join(f"{share:.0%} {part}" for part, share in FRACTIONS.items()),
        seen={"selection": "selection", "test": "the test split itself, as in the paper's code: it leaks"}[
            settings.choose_on
        ],
        severities=", ".join(map(str, settings.severities)),
        seeds=counted(len(results.seeds), "seed"),
        intervals=INTERVALS,
        slack=chosen(SLACK),
        control=_CONTROL if any(run.chooser == CONTROL for run in results.runs) else _NO_CONTROL,
    )
    sentences = [paragraph.replace("\n", " ").partition("| ") for paragraph in text.strip().split("\n\n")]
    words = [("The paper's choices.", " ".join(quirks(settings)))] if settings.paper else []
    return [*((lead, rest) for lead, _, rest in sentences), *words]
