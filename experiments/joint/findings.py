"""What the study of joint pruning found, and how it was done, in sentences."""

from collections.abc import Iterator
from typing import Any

from experiments.joint_figures import BUDGETS, label
from experiments.joint_results import CONTROLS, SLACK, Results, dense
from experiments.joint_settings import CONTROL, FRACTIONS, quirks
from experiments.joint_tables import BATCHES, EXAMPLES, contests
from experiments.transfer_results import Table
from experiments.wording import joined, percent

Point = tuple[str, str]
"""A few words in front, and what follows."""

_TAKEN = {
    "random": "tossing a coin",
    "always-neurons": "always taking neurons",
    "always-layer": "always taking a layer",
    CONTROL: "training on without pruning",
}


def taken(chooser: str) -> str:
    """Returns what a sentence calls a chooser."""
    return _TAKEN.get(chooser, label(chooser))


def points(value: float) -> str:
    """Writes a difference in points, with its sign.

    >>> points(-0.25), points(0.04)
    ('−0.2', '0.0')
    """
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def ends(row: Any) -> str:
    """Writes a difference with its interval."""
    return f"{points(row.difference)} points (95 % interval {points(row.low)} to {points(row.high)})"


def findings(study: Any, results: Results, tested: Table, frame: Table, costs: Table) -> list[Point]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    few = ""
    if len(results.seeds) < 3:
        few = " Fewer than three seeds say little about other seeds: take every verdict as a first look."
    told: list[Point] = []
    for budget in results.budgets:
        before = f"Steps of equal {BUDGETS[budget]}: " if len(results.budgets) > 1 else ""
        here, compared = tested[tested.budget == budget], compared_in(results, budget)
        for chooser in compared:
            kept = [_kept(study, row) for row in _claimed(here, chooser, "keeps")]
            kept += [_equally(row) for row in _claimed(here, chooser, "keeps, equal training")]
            told.append((f"{before}{taken(chooser)}.", " ".join(kept)))
            beaten = [_beaten(row) for row in _claimed(here, chooser, "beats")]
            told += [(f"{before}{taken(chooser)} against the controls.", " ".join(beaten))] if beaten else []
            told.append((f"{before}What {taken(chooser)} chose.", _chosen(results, budget, chooser)))
            robust = _robust(study, here, frame[frame.budget == budget], chooser)
            told.append((f"{before}Robustness, {taken(chooser)}.", robust))
        controls = [name for name in results.present(budget) if name in CONTROLS]
        alone = [_kept(study, row) for name in controls for row in _claimed(here, name, "keeps")]
        told += [(f"{before}The controls.", " ".join(alone))] if alone else []
        told += [(f"{before}Cost.", line) for line in _paid(study, costs[costs.budget == budget], compared)]
    return [*told, ("The dense network.", _start(results) + few)]


def compared_in(results: Results, budget: str) -> list[str]:
    """Lists the choosers of a budget that compare candidates, and removed something."""
    return [name for name in results.present(budget) if name not in CONTROLS]


def paid_after(examples: float) -> str:
    """Writes a number of images, to two digits: it rests on estimates.

    >>> paid_after(1125614), paid_after(float("nan"))
    ('1,100,000 images', 'never')
    """
    return f"{float(f'{examples:.2g}'):,.0f} images" if examples > 0 else "never"


def _claimed(tested: Table, chooser: str, claim: str) -> Iterator[Any]:
    """The rows of a claim; "beats" stands for all that begin with it."""
    named = tested.claim.str.startswith(claim) if claim == "beats" else tested.claim == claim
    return tested[(tested.chooser == chooser) & named].itertuples()


def _start(results: Results) -> str:
    seen = {course.seed: course for course in results.courses}
    found = results.accuracy([(course, 0) for course in seen.values()])
    first = results.courses[0].steps[0]
    return (
        f"It has {first['parameters']:,} parameters, takes {first['macs']:,} multiply-accumulates for an image, and "
        f"gets {percent(found.mean)} of the test images right (95 % interval {percent(found.low)} to "
        f"{percent(found.high)}; {len(seen)} {'seed' if len(seen) == 1 else 'seeds'}).{_tuned(results)}"
    )


def _tuned(results: Results) -> str:
    courses = {course.seed: course for course in results.courses if course.chooser == CONTROL}
    if not courses:
        return ""
    side = [(course, course.last) for course in courses.values()]
    low = results.change(side, dense(side)).points
    changed = f"{points(low.mean)} points (95 % interval {points(low.low)} to {points(low.high)})"
    return f" Tuned for as many steps as a search takes, without pruning, it changes by {changed}."


def _kept(study: Any, row: Any) -> str:
    within = _margin(study)
    at, who = f"at {percent(row.removed)} fewer operations", taken(row.chooser)
    told = {
        "holds": f"{_capital(who)} keeps the accuracy of the dense network to within {within} {at}",
        "does not hold": f"{_capital(who)} does not keep the accuracy of the dense network to within {within} {at}",
    }
    open_one = f"Whether {who} keeps the accuracy of the dense network to within {within} {at} is undecided"
    short = "" if study.target == 0 or row.removed > study.target - 0.005 else " It could not go further."
    return f"{told.get(row.verdict, open_one)}: mean paired difference {ends(row)}.{short}"


def _equally(row: Any) -> str:
    verdict = {"holds": "holds", "does not hold": "does not hold"}.get(row.verdict, "is undecided")
    return f"Against the dense network tuned for as many steps and not pruned, this {verdict}: {ends(row)}."


def _beaten(row: Any) -> str:
    who, other = taken(row.chooser), taken(row.against)
    told = {
        "holds": f"{_capital(who)} is more accurate than {other}",
        "does not hold": f"{_capital(who)} is less accurate than {other}",
    }
    open_one = f"Whether {who} is more accurate than {other} is undecided"
    shares = f"{percent(row.removed)} against {percent(row.removed_against)} of the operations removed"
    return f"{told.get(row.verdict, open_one)}: {ends(row)}, at {shares}."


def _chosen(results: Results, budget: str, chooser: str) -> str:
    courses = results.moving(budget, chooser)
    total = sum(course.last for course in courses)
    met = [step["kind"] for _, step in contests(courses)]
    only = total - len(met)
    rest = f" In the other {only} only one candidate could be made." if only else ""
    if not met:
        return f"It never had two candidates to compare, in any of {total} steps."
    return (
        f"It had two candidates in {len(met)} of {total} steps over all seeds, and took the layer in "
        f"{met.count('layer')} of these, the neurons in {met.count('neurons')}.{rest}"
    )


def _robust(study: Any, tested: Table, frame: Table, chooser: str) -> str:
    words = {"holds": "kept", "does not hold": "not kept"}
    told = [
        f"on {kind} images {words.get(row.verdict, 'undecided')}, {ends(row)}"
        for kind in ("corrupted", "shifted")
        for row in _claimed(tested, chooser, f"keeps, {kind}")
    ]
    within = _margin(study)
    kept = f"Accuracy of the last networks to within {within} of dense: {'; '.join(told)}." if told else ""
    final = frame[frame["last"] & (frame["class"] == "all")]
    tuned = final[(final.chooser == CONTROL) & final.condition.isin(["corrupted", "shifted"])]
    if len(tuned):
        changes = joined([f"{points(row.difference)} points on {row.condition} images" for row in tuned.itertuples()])
        kept += f" The dense network tuned as long changes by {changes}."
    rows = final[final.chooser == chooser]
    attacked = rows[rows.condition.str.startswith("white-box/")]
    if len(attacked):
        least, most = (points(value) for value in (attacked.difference.min(), attacked.difference.max()))
        kept += (
            f" Under attacks made on each network itself the change lies between {least} and {most} points. The "
            "networks were not trained against attacks: such differences are weak evidence of robustness."
        )
    return kept.strip() or "No condition but the clean test images was measured."


def _paid(study: Any, costs: Table, compared: list[str]) -> Iterator[str]:
    for row in costs[costs.chooser.isin(compared)].itertuples():
        small, large = (
            f"{percent(getattr(row, f'ratio_{size}'))} at batch {size} (quartiles "
            f"{percent(getattr(row, f'ratio_{size}_low'))} to {percent(getattr(row, f'ratio_{size}_high'))})"
            for size in BATCHES
        )
        fewer = 1 - row.parameters / row.parameters_dense
        pays = paid_after(row.break_even_examples)
        after = f"after about {pays}" if pays != "never" else pays
        yield (
            f"{_capital(taken(row.chooser))} ends with {percent(fewer)} fewer parameters and {percent(row.removed)} "
            f"fewer operations, and takes, of the dense network's time, {large} and {small}. A search took "
            f"{row.search:.0f} s, compilation included for the first run of a study. Estimated from measured time × "
            f"{study.watts:g} W × {study.grams_per_kwh:g} g/kWh, as "
            f"stated: the search emitted {row.search_grams:.2g} g of CO2 equivalents, {EXAMPLES:,} images at batch "
            f"{BATCHES[-1]} emit {row.million_grams_saved:.2g} g less, and the search has paid for itself {after}."
        )


def _margin(study: Any) -> str:
    return f"{100 * study.margin:g} point{'' if study.margin == 0.01 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------------------------------------------- how it was done


def method(study: Any, results: Results) -> list[Point]:
    """Says how the study was made, and what it leaves open."""
    return [*_recipe(study, results), *_measured(study, results), *_paper(study)]


def _recipe(study: Any, results: Results) -> list[Point]:
    sizes = ", ".join(f"{share:.0%} {part}" for part, share in FRACTIONS.items())
    budgets = " and ".join(BUDGETS[budget] for budget in results.budgets)
    filters = " (by filters: exactly as many as the layer has)" if "filters" in results.budgets else ""
    amount = "one block's worth" if study.share == 0 else f"{percent(study.share)} of the dense network"
    ends_at = f"{percent(study.target)} of the operations are gone" if study.target else "no layer can go any more"
    rules = {"brief": study.brief_steps, "long": study.long_steps}
    teach = f" {percent(study.distil)} of the loss is the cross-entropy to the parent's outputs." * (study.distil > 0)
    chooses = "the test split itself, as in the paper's code: it leaks" if study.choose_on == "test" else "selection"
    return [
        (
            "The search.",
            f"In every step a candidate without layers and one without neurons are made of the current network. Both "
            f"are tuned for {rules['brief']} training steps, the chooser keeps one, which is tuned for {rules['long']} "
            f"more ({study.optimizer}, rate {study.tune_rate:g}, batches of {study.batch_size}).{teach} It ends when "
            f"{ends_at}, or when no candidate can be made. Choosers start from the same dense network of a seed and "
            "tune with the same seeds.",
        ),
        (
            "What a step removes.",
            f"Equal {budgets}, {amount}{filters}. Layers are whole residual blocks with an identity shortcut, rated by "
            f"the criterion {study.layer_criterion!r}; neurons are filters inside blocks, rated by "
            f"{study.neuron_criterion!r} and compared across blocks by {study.allocation!r}. Of equal "
            "candidates the layer is kept. Every stage keeps two blocks, every block a filter: a candidate beyond "
            "these floors is not made, and where only one can be made it is kept without a contest.",
        ),
        ("Network.", _network(study)),
        (
            "Splits.",
            f"Disjoint and stratified, anew for each seed: {sizes}. Training serves the dense network and all tuning, "
            f"scoring the criteria. The choosers look at {chooses}; accuracy and robustness are of test.",
        ),
    ]


def _measured(study: Any, results: Results) -> list[Point]:
    severities = ", ".join(map(str, study.severities))
    return [
        (
            "Robustness.",
            f"Fifteen corruptions at severities {severities}, made anew for these images; attacks on pixels within ε "
            "(FGSM one step, PGD ten of ε/4), made on each network (white-box), or on the dense one and shown to all "
            "(made on dense). The paper's own ε of FGSM and its severities could not be had: these are ours.",
        ),
        (
            "Statistics.",
            f"{len(results.seeds)} seeds. Differences are paired by seed and test image; intervals are two-level "
            "bootstraps over seeds and images, 95 %. A claim holds where its whole interval does, does not hold where "
            "none of it does, and is else undecided. Few seeds make intervals somewhat too narrow, and nothing is "
            "corrected for the number of comparisons. Choosers are compared at the target where both reached it; else "
            "where the first of them ended, each with its last network that has removed no more (give or take "
            f"{percent(SLACK)} of the operations). Nothing is interpolated.",
        ),
        ("Control.", _control(results)),
        (
            "Time and energy.",
            "Latency is the median of runs in turns, on the machine named below. The seconds of a search are wall "
            "time; the first step contains compilation, which the searches of one process share, so that the first "
            f"of them pays most. Energy and carbon are estimates: measured time × {study.watts:g} W × "
            f"{study.grams_per_kwh:g} g/kWh. The training of the dense network is not counted.",
        ),
        (
            "Source.",
            "Nascimento et al. (2025), arXiv 2506.04513. Its exact tables were not available to us, and numbers on "
            "other data, networks and training are not comparable with them. What is given here of its code is named "
            "where it is used.",
        ),
    ]


def _control(results: Results) -> str:
    if any(course.chooser == CONTROL for course in results.courses):
        return (
            "The dense network is tuned, step by step, as a search tunes what it keeps, and not pruned. Networks are "
            "compared with it after as many steps; where a search took more than it has, with its last one."
        )
    return (
        "Missing: no dense network was trained on for as long as the pruned ones were. What a pruned network gains "
        "over the dense line can be its longer training."
    )


def _network(study: Any) -> str:
    kind = "in the variant of Keras's examples" if study.keras else "with BatchNorm"
    return (
        f"CIFAR ResNet of depth {study.depth} and width {study.width}, {kind}, trained for "
        f"{study.pretrain_steps} steps ({study.optimizer}, rate {study.pretrain_rate:g})."
    )


def _paper(study: Any) -> list[Point]:
    if not study.paper:
        return []
    return [("The paper's choices.", " ".join(quirks(study)))]
