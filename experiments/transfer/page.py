"""The page of the transfer study: what was found, with its figures and tables."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table as Printed

from experiments.shared import pages
from experiments.shared.methods import OBJECTIVES, UPDATES, Method, parse, parsed
from experiments.shared.pages import chosen, counted, joined, percent, verdict_table
from experiments.shared.results import Table, at_chance
from experiments.shared.splits import PROTOCOLS
from experiments.shared.styles import OBJECTIVE_LABELS, label
from experiments.transfer import figures
from experiments.transfer.certificates import ROLES, certificates
from experiments.transfer.results import GROUPS, STAGES, Results, by_cell, losses, reach
from jaxprune import report
from jaxprune.report import Cell

PREFERRED = "logits/greedy+surgeon"
"""The method whose certificate is told in words."""


def tables(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    del settings, tested
    return {"accuracy": results.accuracies, "losses": losses(results.records)}


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    page = pages.begun(
        "What a pruned network keeps",
        opening(settings, results, tested),
        results.seeds,
        notices(results),
        figures.curves(results),
        "Zero-shot accuracy with frozen heads. Source is the task that pruned the network, transfer are those never "
        "shown. Dashed: the dense network (below: fine-tuned as the others are); dotted: "
        f"chance. Bands are intervals of 95 %. {_count(results)}",
    )
    pages.claims_table(page, tested)
    page.section("If you prune once, and do not know the next task")
    page.text(advice(settings, results, tested))
    _reach_table(page, results, tested)
    _safety(page, settings, results)
    page.section("Source against transfer")
    page.drawing(
        figures.source_against_transfer(results),
        "A line for each method, from dense (upper right) to the highest sparsity. Above the diagonal it is better on "
        f"what it was never shown. {_count(results)}",
    )
    page.section("Does the quadratic model predict the damage?")
    page.drawing(
        figures.predictions(results, losses(results.records)),
        "Increase of the source loss on the scoring images: measured, against w′Hw/2 of the whole change w of the "
        "weights, exact Hessian of the dense network. A point for each seed and sparsity; the line is equality. "
        f"{counted(len(results.seeds), 'seed')}.",
    )
    page.section("Every verdict")
    page.text(
        "P1: the pruned network keeps the dense one's accuracy. P2: fine-tuning on the source helps, spares and "
        "restores the "
        "other tasks. A cell holds where its whole interval does; floor: both may be chance."
    )
    for _, rows in tested.groupby("claim", sort=False):
        verdict_table(page, rows, "method", "sparsity", label=label, head=chosen)
    page.section("All accuracies")
    _accuracy_table(page, results)
    _method(page, settings, results)
    return page


def _count(results: Results) -> str:
    sizes = [len(one) for one in results.hits("dense", 0.0, "pruned", "source")]
    others = [len(one) for one in results.hits("dense", 0.0, "pruned", "transfer")]
    return f"{counted(len(results.seeds), 'seed')}; n = {sum(sizes)} (source), {sum(others)} (transfer) in all."


# ------------------------------------------------------------------------------------------------------ what was found


def opening(settings: Any, results: Results, tested: Table) -> str:
    """Says what was asked and what was found, whichever way it came out, in sentences made from the verdicts."""
    dense = {group: results.accuracy("dense", 0.0, "pruned", group) for group in ("source", "transfer")}
    return (
        f"A network pretrained on {pages.pretraining(settings)} is pruned with data of {settings.source} only. Dense, "
        f"it gets {percent(dense['source'].mean)} right on that task, and {percent(dense['transfer'].mean)} on those "
        f"that it was never shown. Pruned, it is shown to stay within {100 * settings.margin:g} points of that "
        f"{_furthest(results, tested, 'P1 source')} on the first, and {_furthest(results, tested, 'P1 transfer')} on "
        f"the others. Fine-tuned on {settings.source} alone, it is that close on the others to the dense network "
        f"fine-tuned alike {_furthest(results, tested, 'P2 control transfer')}."
    )


def advice(settings: Any, results: Results, tested: Table) -> str:
    """Says which method keeps both the source and what was never shown furthest, and what the others say about why."""
    kept = {one: within(results, one, settings.margin) for one in results.methods}

    def to(share: float) -> str:
        return f"up to {chosen(share)}" if share else "at no sparsity that was tried"

    fair = _fair(results)
    if not fair:
        return "No method was tried that looks at the source alone."
    most = max(min(kept[one]) for one in fair)
    best = [one for one in fair if min(kept[one]) == most]
    shown = max(min(reach(tested, f"P1 {group}", one) or 0.0 for group in ("source", "transfer")) for one in fair)
    said = (
        f"Of what saw the source alone, at most {100 * settings.margin:g} points are lost on both {to(most)}, in the "
        f"mean over seeds, by {joined([label(one) for one in best])} (the best on these tests, so flattered; shown of "
        f"one method {to(shown)})."
    )
    for one in ("label/diagonal", "label/greedy+rounds", "logits-of-all/greedy+surgeon"):
        if one in kept and one not in best:
            said += f" {label(one)}: the source {to(kept[one][0])}, the others {to(kept[one][1])}."
    return said


def _fair(results: Results) -> list[str]:
    """The methods that saw the source alone, and are no control."""
    return [one for one in results.methods if one != "random" and parse(one).objective != "logits-of-all"]


def within(results: Results, method: str, margin: float) -> tuple[float, float]:
    """The sparsities up to which a method loses at most so much in the mean, on the source and on the other tasks."""
    found = []
    for group in ("source", "transfer"):
        dense = results.accuracy("dense", 0.0, "pruned", group).mean
        far = 0.0
        for sparsity in results.sparsities:
            if dense - results.accuracy(method, sparsity, "pruned", group).mean > margin:
                break
            far = sparsity
        found.append(far)
    return found[0], found[1]


def notices(results: Results) -> list[str]:
    """Says what a reader must know before any number: of controls that fail."""
    harmed = pages.tuned({GROUPS[group]: results.tuned_by(group) for group in results.groups})
    guessing = [
        GROUPS[group]
        for group in results.groups
        if at_chance(results.hits("dense", 0.0, "pruned", group), results.examples(group), results.chance(group))
    ]
    blind = f"The dense network cannot be told from chance on {joined(guessing)}." if guessing else ""
    return [harmed, blind]


def _furthest(results: Results, tested: Table, claim: str) -> str:
    limits = {method: reach(tested, claim, method) for method in _fair(results)}
    best = max((limit for limit in limits.values() if limit is not None), default=None)
    if best is None:
        return "at no sparsity that was tried"
    by = [label(method) for method in limits if limits[method] == best]
    return f"up to {chosen(best)} sparsity ({joined(by) if len(by) < 3 else counted(len(by), 'method')})"


# ------------------------------------------------------------------------------------------------------------- tables


def _reach_table(page: report.Page, results: Results, tested: Table) -> None:
    claims = [f"{start} {group}" for start in ("P1", "P2 restores", "P2 control") for group in ("source", "transfer")]
    rows = []
    for method in results.methods:
        limits = [reach(tested, claim, method) for claim in claims]
        rows.append([label(method), *("none" if limit is None else chosen(limit) for limit in limits)])
    page.table(
        "The sparsity up to which a claim holds at every sparsity tried: P1, pruned against dense; P2 restores, "
        "fine-tuned against dense; P2 control, fine-tuned against dense fine-tuned alike.",
        ["", *claims],
        rows,
    )


def _safety(page: report.Page, settings: Any, results: Results) -> None:
    """Shows how far each network may be pruned with a guarantee."""
    if not (lines := certificates(results, settings.margin)):
        return
    page.section("How far it may be pruned, with a guarantee")
    # Said before anything is looked at: of many certificates the best one has less than its confidence.
    seed, method = results.seeds[0], PREFERRED if PREFERRED in results.methods else results.methods[0]
    alike = (seed, method, "transfer", False)
    shown = next((one for one in lines if (one.seed, one.method, one.role, one.labels) == alike), lines[0])
    count = len(results.inputs.identities(results.seeds[0], "certificate"))
    page.text(
        f"Of seed {shown.seed} by {label(shown.method)}, chosen before anything was measured: {shown.found}. Each is "
        f"one statement, from {count} images that served nothing else; the best of many is none."
    )
    roles = [(role, labels) for role in ROLES for labels in (False, True)]
    rows = []
    for method in results.methods:
        cells = []
        for role, labels in roles:
            found = [one for one in lines if (one.method, one.role, one.labels) == (method, role, labels)]
            short = [one for one in found if isinstance(one.found, str)]
            cells.append(
                "too few images"
                if short
                else " / ".join(chosen(one.reached) if one.reached else "none" for one in found)
            )
        rows.append([label(method), *cells])
    page.table(
        f"The largest sparsity certified to cost {100 * settings.margin:g} points at most, for each seed.",
        ["", *(f"{ROLES[role]}, {'with' if labels else 'without'} labels" for role, labels in roles)],
        rows,
    )


def _accuracy_table(page: report.Page, results: Results) -> None:
    meanings = {
        "frozen": "Zero-shot: heads fitted on dense features, then frozen",
        "refitted": "Heads refitted on the features of each network: what is still there to be read; not zero-shot",
    }
    for head, meaning in meanings.items():
        rows = []
        for (method, sparsity), cells in by_cell(results.accuracies[results.accuracies["head"] == head]):
            numbers = cells.set_index(["group", "stage"])
            shown = [_stages(numbers.loc[group]) for group in results.groups]
            rows.append([label(str(method)), chosen(sparsity), *shown])
        caption = f"{meaning}. Accuracy in percent, pruned → fine-tuned, with intervals of 95 %."
        page.table(caption, ["", "sparsity", *results.groups], rows, folded=True)


def _stages(stages: Table) -> Cell:
    values = [stages.loc[stage] for stage in STAGES]
    note = " → ".join(f"{100 * one.low:.1f} to {100 * one.high:.1f}" for one in values)
    return Cell(" → ".join(f"{100 * one.accuracy:.1f}" for one in values), "", note)


# ------------------------------------------------------------------------------------------------------ how it was done


def _method(page: report.Page, settings: Any, results: Results) -> None:
    first = results.records[0]
    statistics = "were re-estimated after pruning" if settings.recalibrate else "stay"
    pruning = "one-shot" if settings.rounds == 1 else f"in {settings.rounds} rounds, scored anew in each"
    leaks = [("Leak.", leak) for leak in PROTOCOLS[settings.protocol]]
    skipped = first["metrics"].get("skipped", {}).items()
    left_out = [
        ("Left out.", f"{counted(count, 'image')} of {name} could not be read, or are hidden.")
        for name, count in skipped
    ]
    methods = parsed(settings)
    page.section("How it was done")
    page.points(
        [
            ("Network.", pages.network(settings, results.data, results.metrics("dense", 0.0))),
            ("Splits.", pages.splits(settings, first["metrics"].get("separate_tests", False), settings.protocol)),
            (
                "Heads.",
                f"A {settings.head} head for each task, fitted on features of the dense network, then frozen; its "
                "penalty is chosen on the selection split.",
            ),
            (
                "Pruning.",
                f"Global, {pruning} unless said, by the scoring split of the source; every kernel but the "
                "classifier's. "
                f"Labels are read through the frozen head ({settings.label_loss.replace('_', ' ')}). The paper's own "
                "score could not be had.",
            ),
            *((f"{name}.", meaning) for name, meaning in _meanings(settings, methods)),
            (
                "Fine-tuning.",
                f"{settings.finetune_steps} steps of {_OPTIMIZERS[settings.protocol]} on the source, "
                f"{pages.rate(settings)}; the head stays, BatchNorm statistics {statistics}. The dense "
                "control has the same.",
            ),
            ("Intervals.", f"{pages.INTERVALS} Shifted copies count once."),
            (
                "Source.",
                "Iurada, Occhiena and Tommasi (2025), arXiv 2509.24066. Protocol, data and network are ours.",
            ),
            *leaks,
            *left_out,
        ]
    )
    page.drawing(figures.examples(results.inputs, settings.shifts), "Images of the first two tasks, and of the shifts.")


def _meanings(settings: Any, methods: Sequence[Method]) -> Iterator[tuple[str, str]]:
    """Says what the words of the methods mean that the study has."""
    for name, meaning in OBJECTIVES.items():
        if any(one.objective == name for one in methods):
            yield f"Objective: {OBJECTIVE_LABELS[name]}", f"{meaning[0].upper()}{meaning[1:]}."
    scores = {one.score for one in methods}
    if "greedy" in scores:
        yield (
            "Greedy surgeon",
            "In the exact Hessian of all weights into a unit the cheapest weight goes, the rest makes up for it, and "
            f"the next is priced on what is left; damped by {settings.damping:g} of the mean diagonal.",
        )
    if "obs" in scores:
        yield (
            "Surgeon, one deletion",
            "It prices one deletion, and is used here for many: of two weights that stand in for each other both are "
            "cheap, and both go.",
        )
    for name, meaning in UPDATES.items():
        if name != "none" and any(one.update == name for one in methods):
            yield f"Update: {name}", f"{meaning[0].upper()}{meaning[1:]}."
    if settings.sketch:
        yield "Sketch", f"Scores by logits and features see {settings.sketch} random directions of them."
    if any(one.update in ("rounds", "adam") for one in methods):
        yield (
            "Rounds",
            f"Each prunes {100 * settings.round_share:g} % of what is left, by scores of the network as it then is; "
            "every fourth scoring image is held out, and says when a round has moved enough. Adam has the gradients "
            "that the rounds took; its rate is the best of four on the images held out, which is not charged.",
        )


_OPTIMIZERS = {"leak-free": "Adam", "public-proxy": "SGD with momentum and weight decay"}


def summary(settings: Any, results: Results, tested: Table) -> Printed:
    """Makes the main table, for the console."""
    del settings, tested
    rows = results.accuracies
    rows = rows[rows["head"] == "frozen"]
    shown = ("source", "transfer")
    table = Printed(title="Zero-shot accuracy (%): pruned → fine-tuned on the source")
    table.add_column("method")
    table.add_column("sparsity", justify="right")
    for group in shown:
        table.add_column(group, justify="right")
    for (method, sparsity), cells in by_cell(rows):
        value = cells.set_index(["group", "stage"]).accuracy
        cell = [" → ".join(f"{100 * value[group, stage]:5.1f}" for stage in STAGES) for group in shown]
        table.add_row(label(str(method)), chosen(sparsity), *cell)
    return table
