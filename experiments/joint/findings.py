"""What the study of joint pruning found, and how it was done, in sentences."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from experiments.joint.figures import BUDGETS, label
from experiments.joint.results import CONTROLS, SLACK, Results, Searched, dense_of, differences, hits_of, margin_of
from experiments.joint.settings import CONTROL, FRACTIONS, quirks
from experiments.joint.tables import comparisons
from experiments.shared.pages import counted, few_seeds, joined, percent, points
from experiments.shared.results import Table, interval

_CLEAN = "No condition but the clean test images was measured."


def in_points(found: Any) -> str:
    """Writes a difference of shares with its interval, in points."""
    return f"{points(found.mean)} points (95 % interval {points(found.low)} to {points(found.high)})"


def findings(settings: Any, results: Results, tested: Table, frame: Table, costs: Table) -> list[tuple[str, str]]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    found = []
    for budget in results.budgets:
        before = f"Steps of equal {BUDGETS[budget]}: " if len(results.budgets) > 1 else ""
        of = partial(_sentences, settings, [row for row in tested.itertuples() if row.budget == budget])
        final = frame[(frame.budget == budget) & frame["last"] & (frame["class"] == "all")]
        compared, sentences = [name for name in results.pruning(budget) if name not in CONTROLS], []
        for chooser in compared:
            who = label(chooser)
            robust = [of([chooser], "keeps, corrupted", "keeps, shifted"), *_robust(final, chooser)]
            sentences += [
                (f"{who}.", of([chooser], "keeps", "keeps, equal training")),
                (f"{who} against the controls.", of([chooser], *(f"beats {name}" for name in CONTROLS))),
                (f"What {who} chose.", _chosen(results.pruned(budget, chooser))),
                (f"Robustness, {who}.", " ".join(filter(None, robust)) or _CLEAN),
            ]
        sentences.append(("The controls.", of(CONTROLS, "keeps")))
        spent = costs[(costs.budget == budget) & costs.chooser.isin(compared)]
        sentences += [("Cost.", _cost(row)) for row in spent.itertuples()]
        found += [(f"{before}{lead}", text) for lead, text in sentences if text]
    return [*found, ("The dense network.", _dense(results) + few_seeds(len(results.seeds)))]


def paid_after(images: float) -> str:
    """Writes a number of images, to two digits: it rests on estimates.

    >>> paid_after(1125614), paid_after(float("nan"))
    ('1,100,000 images', 'never')
    """
    return f"{float(f'{images:.2g}'):,.0f} images" if images > 0 else "never"


def _sentences(settings: Any, rows: Sequence[Any], choosers: Sequence[str], *claims: str) -> str:
    return " ".join(_verdict(settings, row) for row in rows if row.chooser in choosers and row.claim in claims)


def _verdict(settings: Any, row: Any) -> str:
    who, kind = label(row.chooser), row.claim.partition(", ")[2]
    if kind == "equal training":
        verdict = row.verdict if "hold" in row.verdict else "is undecided"
        return f"Against the dense network tuned for as many steps and not pruned, this {verdict}: {in_points(row)}."
    if kind:
        kept = {"holds": "kept", "does not hold": "not kept"}.get(row.verdict, "undecided")
        return f"Accuracy on {kind} images to within {margin_of(settings)} of dense: {kept}, {in_points(row)}."
    if row.against in CONTROLS:
        does, does_not, what = "is more accurate than", "is less accurate than", label(row.against)
        shares = f"{percent(row.removed)} against {percent(row.removed_against)} of the operations removed"
        by = f"{in_points(row)}, at {shares}."
    else:
        does, does_not = "keeps", "does not keep"
        within = f"to within {margin_of(settings)} at {percent(row.removed)} fewer operations"
        what, by = f"the accuracy of the dense network {within}", f"mean paired difference {in_points(row)}."
        by += " It could not go further." if settings.target and row.removed <= settings.target - 0.005 else ""
    ways = {"holds": f"{who} {does} {what}", "does not hold": f"{who} {does_not} {what}"}
    sentence = ways.get(row.verdict, f"whether {who} {does} {what} is undecided")
    return f"{sentence[:1].upper()}{sentence[1:]}: {by}"


def _dense(results: Results) -> str:
    seen = {run.seed: run for run in results.runs}
    first, right = results.runs[0].steps[0], interval(hits_of([(run, 0) for run in seen.values()]))
    sentence = (
        f"It has {first['parameters']:,} parameters, takes {first['macs']:,} multiply-accumulates for an image, and "
        f"gets {percent(right.mean)} of the test images right (95 % interval {percent(right.low)} to "
        f"{percent(right.high)}; {counted(len(seen), 'seed')})."
    )
    tuned = [(run, run.last) for run in {run.seed: run for run in results.runs if run.chooser == CONTROL}.values()]
    if not tuned:
        return sentence
    changed = in_points(interval(differences(tuned, dense_of(tuned))))
    return f"{sentence} Tuned for as many steps as a search takes, without pruning, it changes by {changed}."


def _chosen(runs: Sequence[Searched]) -> str:
    total, kinds = sum(run.last for run in runs), [step["kind"] for step in comparisons(runs)]
    if not kinds:
        return f"It never had two candidates to compare, in any of {total} steps."
    return (
        f"It had two candidates in {len(kinds)} of {total} steps over all seeds, and took the layer in "
        f"{kinds.count('layer')} of these, the neurons in {kinds.count('neurons')}. In the other "
        f"{total - len(kinds)} only one candidate could be made."
    )


def _robust(final: Table, chooser: str) -> Iterator[str]:
    tuned = final[(final.chooser == CONTROL) & final.condition.isin(["corrupted", "shifted"])]
    if len(tuned):
        changes = [f"{points(row.difference)} points on {row.condition} images" for row in tuned.itertuples()]
        yield f"The dense network tuned as long changes by {joined(changes)}."
    attacked = final[(final.chooser == chooser) & final.condition.str.startswith("white-box/")].difference
    if len(attacked):
        yield (
            f"Under attacks made on each network itself the change lies between {points(attacked.min())} and "
            f"{points(attacked.max())} points. The networks were not trained against attacks: such differences are "
            "weak evidence of robustness."
        )


def _cost(row: Any) -> str:
    who, pays = label(row.chooser), paid_after(row.break_even_examples)
    known = row.compilation >= 0
    spent = f", and compiling {row.compilation:.0f} s more" if known else ", compiling included"
    return (
        f"{who[:1].upper()}{who[1:]} ends with {percent(1 - row.parameters / row.parameters_dense)} fewer parameters "
        f"and {percent(row.removed)} fewer operations, and takes {percent(row.ratio_64)} of the dense network's time "
        f"at batch 64, {percent(row.ratio_1)} at batch 1. A search took {row.search:.0f} s{spent}; it has paid "
        f"for itself {'after about ' if pays != 'never' else ''}{pays}, as far as energy is time"
        f"{' and without compiling' if known else ''}."
    )


_METHOD = """
The search.| In every step a candidate without layers and one without neurons are made of the current network. Both are
tuned for {s.brief_steps} training steps, the chooser keeps one, which is tuned for {s.long_steps} more ({s.optimizer},
rate {s.tune_rate:g}, batches of {s.batch_size}).{parent} It ends when {end}, or when no candidate can be made. Choosers
start from the same dense network of a seed and tune with the same seeds.

What a step removes.| Equal {budgets}, {amount}{filters}. Layers are whole residual blocks with an identity shortcut,
rated by the criterion {s.layer_criterion!r}; neurons are filters inside blocks, rated by {s.neuron_criterion!r} and
compared across blocks by {s.allocation!r}. Of equal candidates the layer is kept. Every stage keeps two blocks, every
block a filter: a candidate beyond these floors is not made, and where only one can be made it is kept without a
comparison.

Network and splits.| CIFAR ResNet of depth {s.depth} and width {s.width}, {variant}, trained for {s.pretrain_steps}
steps ({s.optimizer}, rate {s.pretrain_rate:g}). Splits are disjoint and stratified, anew for each seed: {splits}.
Training serves the dense network and all tuning, scoring the criteria. The choosers look at {seen}; accuracy and
robustness are of test.

Robustness.| Fifteen corruptions at severities {severities}, made anew for these images; attacks on pixels within ε
(FGSM one step, PGD ten of ε/4), made on each network (white-box), or on the dense one and shown to all (made on dense).
The paper's own ε of FGSM and its severities could not be had: these are ours.

Statistics.| {seeds}. Differences are paired by seed and test image; intervals are two-level bootstraps over both, 95 %.
A claim holds where its whole interval does, does not hold where none of it does, and is else undecided. Few seeds make
intervals somewhat too narrow, and nothing is corrected for the number of comparisons. Choosers are compared at the
target where both reached it; else where the first of them ended, each with its last network that has removed no more
(give or take {slack} of the operations). Nothing is interpolated.

Control.| {control}

Time.| That of a network is the median of runs in turns, on the machine named below; that of a search is wall time
without tracing, lowering and compiling, which is measured apart: the searches of one process share compiled programs,
so that the first of them compiles most. What a search has to pay for is its time without compiling. The training of the
dense network is not counted.

Source.| Nascimento et al. (2025), arXiv 2506.04513. Its exact tables were not available to us, and numbers on other
data, networks and training are not comparable with them.
"""

_CONTROL = (
    "The dense network is tuned, step by step, as a search tunes what it keeps, and not pruned. Networks are compared "
    "with it after as many steps; where a search took more than it has, with its last one."
)
_NO_CONTROL = (
    "Missing: no dense network was trained on for as long as the pruned ones were. What a pruned network gains over "
    "the dense line can be its longer training."
)


def method(settings: Any, results: Results) -> list[tuple[str, str]]:
    """Says how the study was made, and what it leaves open."""
    parent = f" {percent(settings.distil)} of the loss is the cross-entropy to the parent's outputs."
    gone = f"{percent(settings.target)} of the operations are gone"
    text = _METHOD.format(
        s=settings,
        parent=parent if settings.distil else "",
        end=gone if settings.target else "no layer can go any more",
        budgets=" and ".join(BUDGETS[budget] for budget in results.budgets),
        amount=f"{percent(settings.share)} of the dense network" if settings.share else "one block's worth",
        filters=" (by filters: exactly as many as the layer has)" if "filters" in results.budgets else "",
        variant="in the variant of Keras's examples" if settings.keras else "with BatchNorm",
        splits=", ".join(f"{share:.0%} {part}" for part, share in FRACTIONS.items()),
        seen={"selection": "selection", "test": "the test split itself, as in the paper's code: it leaks"}[
            settings.choose_on
        ],
        severities=", ".join(map(str, settings.severities)),
        seeds=counted(len(results.seeds), "seed"),
        slack=percent(SLACK),
        control=_CONTROL if any(run.chooser == CONTROL for run in results.runs) else _NO_CONTROL,
    )
    sentences = [paragraph.replace("\n", " ").partition("| ") for paragraph in text.strip().split("\n\n")]
    words = [("The paper's choices.", " ".join(quirks(settings)))] if settings.paper else []
    return [*((lead, rest) for lead, _, rest in sentences), *words]
