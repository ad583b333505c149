"""What the study of joint pruning found, and how it was done, in sentences."""

from collections.abc import Iterator
from typing import Any

from experiments.joint.figures import BUDGETS, label
from experiments.joint.results import CONTROLS, SLACK, Results, accuracy, dense_of, differences, margin_of
from experiments.joint.settings import CONTROL, FRACTIONS, quirks
from experiments.joint.tables import comparisons
from experiments.shared.pages import counted, few_seeds, joined, percent, points
from experiments.shared.results import Table, interval


def in_points(found: Any) -> str:
    """Writes a difference of shares with its interval, in points."""
    return f"{points(found.mean)} points (95 % interval {points(found.low)} to {points(found.high)})"


def findings(settings: Any, results: Results, tested: Table, frame: Table, costs: Table) -> list[tuple[str, str]]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    found: list[tuple[str, str]] = []
    for budget in results.budgets:
        before = f"Steps of equal {BUDGETS[budget]}: " if len(results.budgets) > 1 else ""
        here = [row for row in tested.itertuples() if row.budget == budget]
        pruning = results.pruning(budget)
        compared = [name for name in pruning if name not in CONTROLS]
        for chooser in compared:
            kept = [_kept(settings, row) for row in _claimed(here, chooser, "keeps")]
            kept += [_equally(row) for row in _claimed(here, chooser, "keeps, equal training")]
            found.append((f"{before}{label(chooser)}.", " ".join(kept)))
            beaten = [_beaten(row) for control in CONTROLS for row in _claimed(here, chooser, f"beats {control}")]
            found += [(f"{before}{label(chooser)} against the controls.", " ".join(beaten))] if beaten else []
            found.append((f"{before}What {label(chooser)} chose.", _chosen(results, budget, chooser)))
            robust = _robust(settings, here, frame[frame.budget == budget], chooser)
            found.append((f"{before}Robustness, {label(chooser)}.", robust))
        controls = [name for name in pruning if name in CONTROLS]
        alone = [_kept(settings, row) for name in controls for row in _claimed(here, name, "keeps")]
        found += [(f"{before}The controls.", " ".join(alone))] if alone else []
        found += [(f"{before}Cost.", line) for line in _costs(costs[costs.budget == budget], compared)]
    return [*found, ("The dense network.", _dense(results) + few_seeds(len(results.seeds)))]


def paid_after(images: float) -> str:
    """Writes a number of images, to two digits: it rests on estimates.

    >>> paid_after(1125614), paid_after(float("nan"))
    ('1,100,000 images', 'never')
    """
    return f"{float(f'{images:.2g}'):,.0f} images" if images > 0 else "never"


def _claimed(rows: list[Any], chooser: str, claim: str) -> list[Any]:
    return [row for row in rows if (row.chooser, row.claim) == (chooser, claim)]


def _dense(results: Results) -> str:
    seen = {run.seed: run for run in results.runs}
    found, first = accuracy([(run, 0) for run in seen.values()]), results.runs[0].steps[0]
    sentence = (
        f"It has {first['parameters']:,} parameters, takes {first['macs']:,} multiply-accumulates for an image, and "
        f"gets {percent(found.mean)} of the test images right (95 % interval {percent(found.low)} to "
        f"{percent(found.high)}; {counted(len(seen), 'seed')})."
    )
    tuned = [(run, run.last) for run in {run.seed: run for run in results.runs if run.chooser == CONTROL}.values()]
    if not tuned:
        return sentence
    changed = in_points(interval(differences(tuned, dense_of(tuned))))
    return f"{sentence} Tuned for as many steps as a search takes, without pruning, it changes by {changed}."


def _said(verdict: str, who: str, does: str, does_not: str, what: str) -> str:
    ways = {"holds": f"{_capital(who)} {does} {what}", "does not hold": f"{_capital(who)} {does_not} {what}"}
    return ways.get(verdict, f"Whether {who} {does} {what} is undecided")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _kept(settings: Any, row: Any) -> str:
    within = margin_of(settings)
    what = f"the accuracy of the dense network to within {within} at {percent(row.removed)} fewer operations"
    said = _said(row.verdict, label(row.chooser), "keeps", "does not keep", what)
    short = " It could not go further." if settings.target and row.removed <= settings.target - 0.005 else ""
    return f"{said}: mean paired difference {in_points(row)}.{short}"


def _equally(row: Any) -> str:
    verdict = row.verdict if "hold" in row.verdict else "is undecided"
    return f"Against the dense network tuned for as many steps and not pruned, this {verdict}: {in_points(row)}."


def _beaten(row: Any) -> str:
    said = _said(row.verdict, label(row.chooser), "is more accurate than", "is less accurate than", label(row.against))
    shares = f"{percent(row.removed)} against {percent(row.removed_against)} of the operations removed"
    return f"{said}: {in_points(row)}, at {shares}."


def _chosen(results: Results, budget: str, chooser: str) -> str:
    runs = results.pruned(budget, chooser)
    total = sum(run.last for run in runs)
    kinds = [step["kind"] for step in comparisons(runs)]
    if not kinds:
        return f"It never had two candidates to compare, in any of {total} steps."
    return (
        f"It had two candidates in {len(kinds)} of {total} steps over all seeds, and took the layer in "
        f"{kinds.count('layer')} of these, the neurons in {kinds.count('neurons')}. In the other "
        f"{total - len(kinds)} only one candidate could be made."
    )


def _robust(settings: Any, rows: list[Any], frame: Table, chooser: str) -> str:
    words = {"holds": "kept", "does not hold": "not kept"}
    sentences = [
        f"Accuracy on {kind} images to within {margin_of(settings)} of dense: {words.get(row.verdict, 'undecided')}, "
        f"{in_points(row)}."
        for kind in ("corrupted", "shifted")
        for row in _claimed(rows, chooser, f"keeps, {kind}")
    ]
    final = frame[frame["last"] & (frame["class"] == "all")]
    tuned = final[(final.chooser == CONTROL) & final.condition.isin(["corrupted", "shifted"])]
    if len(tuned):
        changes = joined([f"{points(row.difference)} points on {row.condition} images" for row in tuned.itertuples()])
        sentences.append(f"The dense network tuned as long changes by {changes}.")
    attacked = final[(final.chooser == chooser) & final.condition.str.startswith("white-box/")].difference
    if len(attacked):
        sentences.append(
            f"Under attacks made on each network itself the change lies between {points(attacked.min())} and "
            f"{points(attacked.max())} points. The networks were not trained against attacks: such differences are "
            "weak evidence of robustness."
        )
    return " ".join(sentences) or "No condition but the clean test images was measured."


def _costs(costs: Table, compared: list[str]) -> Iterator[str]:
    for row in costs[costs.chooser.isin(compared)].itertuples():
        pays = paid_after(row.break_even_examples)
        yield (
            f"{_capital(label(row.chooser))} ends with {percent(1 - row.parameters / row.parameters_dense)} fewer "
            f"parameters and {percent(row.removed)} fewer operations, and takes {percent(row.ratio_64)} of the dense "
            f"network's time at batch 64, {percent(row.ratio_1)} at batch 1. A search took {row.search:.0f} s; it has "
            f"paid for itself {'after about ' if pays != 'never' else ''}{pays}, as far as energy is time."
        )


def method(settings: Any, results: Results) -> list[tuple[str, str]]:
    """Says how the study was made, and what it leaves open."""
    return [*_search(settings, results), *_measurements(settings, results)]


def _search(settings: Any, results: Results) -> list[tuple[str, str]]:
    splits = ", ".join(f"{share:.0%} {part}" for part, share in FRACTIONS.items())
    budgets = " and ".join(BUDGETS[budget] for budget in results.budgets)
    filters = " (by filters: exactly as many as the layer has)" if "filters" in results.budgets else ""
    amount = "one block's worth" if settings.share == 0 else f"{percent(settings.share)} of the dense network"
    end = f"{percent(settings.target)} of the operations are gone" if settings.target else "no layer can go any more"
    parent = f" {percent(settings.distil)} of the loss is the cross-entropy to the parent's outputs."
    seen = "the test split itself, as in the paper's code: it leaks" if settings.choose_on == "test" else "selection"
    variant = "in the variant of Keras's examples" if settings.keras else "with BatchNorm"
    return [
        (
            "The search.",
            "In every step a candidate without layers and one without neurons are made of the current network. Both "
            f"are tuned for {settings.brief_steps} training steps, the chooser keeps one, which is tuned for "
            f"{settings.long_steps} more ({settings.optimizer}, rate {settings.tune_rate:g}, batches of "
            f"{settings.batch_size}).{parent if settings.distil else ''} It ends when {end}, or when no candidate can "
            "be made. Choosers start from the same dense network of a seed and tune with the same seeds.",
        ),
        (
            "What a step removes.",
            f"Equal {budgets}, {amount}{filters}. Layers are whole residual blocks with an identity shortcut, rated by "
            f"the criterion {settings.layer_criterion!r}; neurons are filters inside blocks, rated by "
            f"{settings.neuron_criterion!r} and compared across blocks by {settings.allocation!r}. Of equal "
            "candidates the layer is kept. Every stage keeps two blocks, every block a filter: a candidate beyond "
            "these floors is not made, and where only one can be made it is kept without a comparison.",
        ),
        (
            "Network and splits.",
            f"CIFAR ResNet of depth {settings.depth} and width {settings.width}, {variant}, trained for "
            f"{settings.pretrain_steps} steps ({settings.optimizer}, rate {settings.pretrain_rate:g}). Splits are "
            f"disjoint and stratified, anew for each seed: {splits}. Training serves the dense network and all tuning, "
            f"scoring the criteria. The choosers look at {seen}; accuracy and robustness are of test.",
        ),
    ]


_CONTROL = (
    "The dense network is tuned, step by step, as a search tunes what it keeps, and not pruned. Networks are compared "
    "with it after as many steps; where a search took more than it has, with its last one."
)
_NO_CONTROL = (
    "Missing: no dense network was trained on for as long as the pruned ones were. What a pruned network gains over "
    "the dense line can be its longer training."
)


def _measurements(settings: Any, results: Results) -> list[tuple[str, str]]:
    found = quirks(settings)
    return [
        (
            "Robustness.",
            f"Fifteen corruptions at severities {', '.join(map(str, settings.severities))}, made anew for these "
            "images; attacks on pixels within ε (FGSM one step, PGD ten of ε/4), made on each network (white-box), or "
            "on the dense one and shown to all (made on dense). The paper's own ε of FGSM and its severities could not "
            "be had: these are ours.",
        ),
        (
            "Statistics.",
            f"{counted(len(results.seeds), 'seed')}. Differences are paired by seed and test image; intervals are "
            "two-level bootstraps over both, 95 %. A claim holds where its whole interval does, does not hold where "
            "none of it does, and is else undecided. Few seeds make intervals somewhat too narrow, and nothing is "
            "corrected for the number of comparisons. Choosers are compared at the target where both reached it; else "
            "where the first of them ended, each with its last network that has removed no more (give or take "
            f"{percent(SLACK)} of the operations). Nothing is interpolated.",
        ),
        ("Control.", _CONTROL if any(run.chooser == CONTROL for run in results.runs) else _NO_CONTROL),
        (
            "Time.",
            "That of a network is the median of runs in turns, on the machine named below; that of a search is wall "
            "time. The searches of one process share compiled programs, so that the first of them pays most. The "
            "training of the dense network is not counted.",
        ),
        (
            "Source.",
            "Nascimento et al. (2025), arXiv 2506.04513. Its exact tables were not available to us, and numbers on "
            "other data, networks and training are not comparable with them.",
        ),
        *([("The paper's choices.", " ".join(found))] if found else []),
    ]
