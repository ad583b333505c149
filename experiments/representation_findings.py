"""What the study of representations found, and how it was done, in sentences."""

from collections.abc import Iterator
from typing import Any

from experiments import options
from experiments.representation_figures import ARMS, method, rung_label, title
from experiments.representation_networks import LOSS
from experiments.representation_quantities import ACCURACY, CUES, DECIDE, FIND, LOOK, NEED, ODD, RANDOM_MAP
from experiments.representation_results import REFERENCES, Results
from experiments.representation_settings import BUGS, CONTROL, LADDER, LEGACY, RANDOM, SNIP, Study
from experiments.transfer_results import Table
from experiments.wording import DATA, counted, joined, percent

Point = tuple[str, str]
"""A few words in front, and what follows."""

QUESTIONS = {
    ACCURACY: "Does it know the class?",
    LOOK: "Does it look at the object?",
    NEED: "Does it need the pixels that it is said to look at?",
    FIND: "Are objects found in its features?",
    DECIDE: "Does it decide as observers do?",
    CUES: "Shape or texture?",
    ODD: "Which one is odd?",
}
"""The headings of the page."""

_TOLD = 6  # sweet spots, or networks, that a sentence lists


def signed(value: float) -> str:
    """Writes a gain with its sign, three digits after the point.

    >>> signed(-0.0304), signed(0.0001)
    ('−0.030', '0.000')
    """
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def spot(row: Any) -> str:
    """Writes the rung of a verdict with its gain and interval."""
    ends = f"95 % interval {signed(row.low)} to {signed(row.high)}"
    return f"{signed(row.gain)} at {rung_label(row.sparsity)} % ({ends})"


def findings(study: Study, results: Results, measured: Table, tested: Table, flat: Table) -> list[Point]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    told = [("Accuracy along the ladder.", _accuracies(results, measured))]
    if tested.empty:
        told.append(("Sweet spots.", "None can be looked for: the ladder has no rung but the dense network."))
    else:
        told.append(("Sweet spots.", _overall(study, tested)))
        for question, heading in QUESTIONS.items():
            here = tested[tested.question == question]
            # Gains of a random order belong to no method, and are told apart below.
            here = here[here.method != RANDOM_MAP]
            if len(here):
                told.append((heading, " ".join(_answer(here, against) for against in REFERENCES)))
        told += [("Random order.", line) for line in _any_order(tested)]
    told += [("Flat maps.", line) for line in _flat(flat)]
    told.append(("No people were asked.", _OBSERVERS))
    if len(results.seeds) < 3:
        few = "Fewer than three seeds say little about other seeds: take every verdict as a first look."
        told.append(("Few seeds.", few))
    return told


_OBSERVERS = (
    "The observers that decisions are compared with are simulated: they err more under stronger distortion and about "
    "smaller objects, by a formula given below. What is close to them is not thereby close to people."
)


def _accuracies(results: Results, measured: Table) -> str:
    told = []
    rows = measured[(measured.question == ACCURACY)].set_index(["architecture", "arm", "rung"])["mean"]
    for name in results.architectures:
        last = max(results.rungs(name, LADDER))
        ends = [percent(rows[name, LADDER, rung]) for rung in dict.fromkeys((0, last))]
        at = f" at {rung_label(results.sparsity(name, LADDER, last))} % sparsity" if last else ""
        control = results.rungs(name, CONTROL)
        equal = f" (dense, trained equally long: {percent(rows[name, CONTROL, last])})" if last in control else ""
        told.append(f"{title(name)} {' → '.join(ends)}{at}{equal}")
    return f"{'; '.join(told)}."


def _overall(study: Study, tested: Table) -> str:
    own = tested[tested.method != RANDOM_MAP]
    told = []
    for against, meaning in REFERENCES.items():
        here = own[own.against == against]
        counts = [f"{(here.verdict == one).sum()} {one}" for one in ("found", "undecided", "not found")]
        told.append(f"over {meaning}: {', '.join(counts)}, of {len(here)}")
    margin = f" by more than {study.margin:g}" if study.margin else ""
    return (
        f"A sweet spot is a rung that is better{margin}, tested for all rungs of a ladder at once, for every "
        "architecture and measure but the odd one out, whose triplets share pictures. Gains "
        f"{'; '.join(told)}. A gain over the dense network can come from pruning or from the longer training that a "
        "rung has had; one over the dense network trained equally long cannot come from that. The verdicts are many: "
        f"were nothing gained or lost anywhere, about {0.025 * len(own):.2g} of these {len(own)} would be found by "
        "chance, and more where seeds differ much."
    )


def _answer(here: Table, against: str) -> str:
    rows = here[here.against == against]
    if rows.empty:
        return ""
    found = rows[rows.verdict == "found"].sort_values("gain", ascending=False, kind="stable")
    rest = [f"{one} in {(rows.verdict == one).sum()}" for one in ("undecided", "not found") if one in set(rows.verdict)]
    lead = f"Against {REFERENCES[against]}: "
    if found.empty:
        alone = {"undecided": f"undecided in {_all(len(rows))}", "not found": f"no sweet spot in {_all(len(rows))}"}
        return (
            lead
            + (
                alone[rows.verdict.iloc[0]]
                if len(rest) == 1
                else f"found in none of {len(rows)} cases ({', '.join(rest)})"
            )
            + "."
        )
    spots = [f"{title(row.architecture)}{_about(row, rows)} {spot(row)}" for row in found.head(_TOLD).itertuples()]
    more = f"; {len(found) - _TOLD} more are in the table" if len(found) > _TOLD else ""
    others = f"; {', '.join(rest)}" if rest else ""
    return f"{lead}found in {len(found)} of {len(rows)}{others}. {'; '.join(spots)}{more}."


def _all(count: int) -> str:
    return {1: "the only case", 2: "both cases"}.get(count, f"all {count} cases")


def _about(row: Any, rows: Table) -> str:
    """Names the quantity and the method of a row where its question has several."""
    words = [row.quantity] if rows.quantity.nunique() > 1 else []
    words += [method(row.method)] if row.method else []
    return f", {', '.join(words)}:" if words else ":"


def _any_order(tested: Table) -> Iterator[str]:
    rows = tested[(tested.method == RANDOM_MAP) & (tested.verdict == "found")]
    if len(rows):
        spots = [
            f"{title(row.architecture)}, {row.quantity}, against {REFERENCES[row.against]}" for row in rows.itertuples()
        ]
        yield (
            "Insertion or deletion improves even where pixels come in random order, as decisions need more or fewer "
            f"pixels, whichever they are: {'; '.join(spots)}. The verdicts on methods are of the distance to random "
            "order."
        )


def _flat(flat: Table) -> Iterator[str]:
    if len(flat):
        ranked = flat.assign(share=flat.flat / flat.maps).sort_values("share", ascending=False, kind="stable")
        dead = ranked[ranked.share > 0.5]
        shown = dead if len(dead) else ranked.head(1)
        named = [
            f"{method(row.method)} of {title(row.architecture)}, "
            f"{f'{ARMS[row.arm]}, rung {row.rung}' if row.rung else 'dense'} ({row.flat} of {row.maps})"
            for row in shown.head(_TOLD).itertuples()
        ]
        more = f"; {len(shown) - _TOLD} more are in flat_maps.csv" if len(shown) > _TOLD else ""
        lead = (
            "Of these networks more than half are, so that the method says nothing of them:" if len(dead) else "Most:"
        )
        yield (
            f"{flat['flat'].sum()} maps have one value everywhere and point nowhere; they count, with the mass 0 or "
            f"the chance level. {lead} {'; '.join(named)}{more}."
        )


# ------------------------------------------------------------------------------------------------------------- method


def approach(study: Study, results: Results) -> list[Point]:
    """Says how it was done."""
    return [
        ("Data.", _data(study)),
        ("Networks.", _networks(study, results)),
        ("Ladder.", _ladder(study, results)),
        ("Controls.", _controls(results)),
        ("Statistics.", _statistics(results)),
        *[("Filters.", one) for one in _filters(study)],
        ("Observers.", _simulated(study)),
        (
            "Source.",
            "Cassano, Renzulli, Bragagnolo and Grangetto (2025), arXiv 2507.01722, prune ResNet-18, ResNet-50, "
            "Swin-V2-T and ViT-B/32 on ImageNet. Numbers on other data, networks and training are not comparable "
            "with theirs.",
        ),
    ]


def _data(study: Study) -> str:
    kind = DATA.get(study.data, study.data)
    attributed = f"attributions are made of the first {study.attributed_images}"
    sizes = f"{study.image_size} pixels a side"
    if study.data != "shapes":
        has_void = study.data.startswith("voc:") or study.void_values
        void = " Void pixels, which are neither object nor ground, count as ground." if has_void else ""
        return (
            f"{kind}, split anew for each seed; {study.test_images} test images at most, {attributed}; {sizes}.{void}"
        )
    return (
        f"{kind.capitalize()}, painted anew for each seed: ten classes, a shape with a texture of its own each; masks "
        f"and boxes are exact. {study.train_images} training and {study.test_images} test images, {attributed}; "
        f"{sizes}. Every second training scene of a class is grey, since distorted images are and should not be new "
        "for that alone. For the shape bias, scenes whose texture is that of another class."
    )


def _networks(study: Study, results: Results) -> str:
    kinds = [f"{title(name)} (peak rate {options.ARCHITECTURES[name].rate:g})" for name in results.architectures]
    return (
        f"{joined(kinds)}; AdamW, weight decay 0.01, warm-up and cosine decay that start anew on every rung, batches "
        f"of {study.batch_size}, {LOSS.__name__.replace('_', ' ')}. Widths and depths are in the code."
    )


def _ladder(study: Study, results: Results) -> str:
    first = results.architectures[0]
    rungs = [f"{rung_label(results.sparsity(first, LADDER, rung))} %" for rung in results.rungs(first, LADDER)]
    positions = ", those of the position networks of Swin V2 among them" if "swin" in results.architectures else ""
    left_out = f" Kernels named {study.exclude} are left out." if study.exclude else ""
    return (
        f"The dense network is trained for {study.first_steps} steps. Then {percent(study.share)} of the weights that "
        f"are left go, those that rank lowest by {study.score} over all prunable kernels at once, and the network is "
        f"trained for {study.steps} steps from the weights that it has: {', '.join(rungs)}. Sparsity is that of the "
        f"prunable kernels{positions}; the share of all kernels is in the last table.{left_out}"
    )


def _controls(results: Results) -> str:
    arms = {arm for _, arm, _ in results.runs}
    told = []
    if CONTROL in arms:
        told.append("Equal training: the dense network, trained on as often and as long as the ladder, and not pruned.")
    else:
        told.append("There is no dense network trained equally long.")
    if RANDOM in arms:
        told.append(
            "Random mask: of that network, on the rung before, a random choice of weights goes at once, as many as on "
            "the rung of the ladder, and it is trained for one rung. The ladder comes there gradually, training after "
            "every step, so that the gap between them is not the criterion's alone."
        )
    if SNIP in arms:
        told.append(
            "SNIP (Lee et al. 2019, arXiv 1810.02340): scored at initialisation, where BatchNorm has the statistics of "
            "the scoring images, pruned at once to the sparsity of the rung, then trained once, as long as the dense "
            "network: shorter than the ladder by all its later rungs."
        )
    return " ".join(told)


def _statistics(results: Results) -> str:
    few = (
        "All intervals are widened by √(n / (n − 1)) for n seeds; where seeds differ more than their images make them, "
        "those of few seeds are too narrow all the same."
        if len(results.seeds) > 1
        else "Of one seed intervals say nothing about others."
    )
    return (
        f"{counted(len(results.seeds), 'seed')}. Bands are 95 % bootstrap intervals of each value by itself, over "
        "seeds and images. Gains are paired by seed and image, signed so that above 0 is better, and the intervals of "
        "a ladder hold at once (maximum of the studentised deviations, Romano and Wolf 2005), since the best of "
        f"several rungs is looked for. {few} Found: one interval lies above the margin; not found: none reaches above "
        "it; undecided: anything else. Nothing is corrected for the number of measures and architectures."
    )


def _filters(study: Study) -> Iterator[str]:
    widths = {
        "low-pass": "low-pass in proportion to images of 224 pixels, as in the benchmark",
        "high-pass": "high-pass in pixels of the image itself, as in proportion nothing of a small one would be left",
    }
    if told := [width for name, width in widths.items() if name in study.distortions]:
        yield f"Standard deviations of the distorting filters are: {'; '.join(told)}."


def _simulated(study: Study) -> str:
    return (
        f"Simulated; no people were asked. {study.observers} for every condition. With s the place of a level among "
        "those of its distortion, from 0 (the control) to 1, z the standardised logarithm of the object's area and "
        "c = 1 / classes, an image is answered rightly with probability c + (1 − c) / (1 + exp(−(3 − 5 s + z))). Any "
        "two share 3 of 10 trials."
    )


def legacy(study: Study) -> tuple[str, list[Point]]:
    """Says what the choices of the released code are, and whether they were taken: a heading, and the list."""
    heading = "The choices of the released code, taken here" if study.legacy else "What --legacy would change"
    return heading, [
        *LEGACY.items(),
        ("Not taken over, in any case, as they are plain mistakes.", f"{BUGS[0].upper()}{BUGS[1:]}."),
    ]
