"""What the study of representations found, in sentences."""

from typing import Any

from experiments.representation.figures import ARMS, method, rung_label, title
from experiments.representation.quantities import ACCURACY, CUES, DECIDE, FIND, LOOK, NEED, ODD, RANDOM_MAP
from experiments.representation.results import REFERENCES, Results
from experiments.representation.settings import CONTROL, LADDER
from experiments.shared.pages import few_seeds, joined, percent
from experiments.shared.results import Table

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

_MOST = 6  # sweet spots, or networks, that a sentence lists


def signed(value: float, margin: float = 0.0) -> str:
    """Writes a gain with its sign, three digits after the point, or as many as tell it from the margin.

    >>> signed(-0.0304), signed(0.00034), signed(0.0), signed(0.0502, 0.05)
    ('−0.030', '+0.0003', '0.000', '+0.0502')
    """
    digits = next((many for many in range(3, 9) if round(value, many) != round(margin, many)), 3)
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def spot(row: Any) -> str:
    """Writes the rung of a verdict with its gain and interval, and whether it is no better than a blind guess."""
    ends = f"95 % interval {signed(row.low, row.margin)} to {signed(row.high, row.margin)}"
    reached = f"; {row.value:.3f}, {blind(row)}, {row.level_value:.3f}" if row.level else ""
    return f"{signed(row.mean, row.margin)} at {rung_label(row.sparsity)} % ({ends}{reached})"


def blind(row: Any) -> str:
    """Names the level without looking that the rung of a verdict is no better than; empty where it is better."""
    article = "the " if row.level in ("centre box", "whole image") else ""
    return f"no better than {article}{method(row.level)}" if row.level else ""


def untested(tested: Table, question: str) -> str:
    """Says why a question that networks were asked has no verdicts; empty where it has some, or needs none."""
    why = (
        "Not tested: of the ladder only the dense network decided on distorted images, so that no rung can be "
        "compared with it (--distorted-rungs)."
    )
    return why if question == DECIDE and not (tested.question == question).any() else ""


def findings(settings: Any, results: Results, tested: Table) -> dict[str, str]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    # Gains of a random order belong to no method, and are told apart below.
    own = tested[tested.method != RANDOM_MAP]
    answers = {
        heading: " ".join(_answer(own[own.question == question], against) for against in REFERENCES)
        if (own.question == question).any()
        else untested(tested, question)
        for question, heading in QUESTIONS.items()
    }
    points = {
        "Accuracy along the ladder.": _accuracies(results),
        "Sweet spots.": _overall(settings, results, own),
        **answers,
        "Random order.": _any_order(tested),
        "Flat maps.": _flat(results),
        "No people were asked.": _OBSERVERS if (tested.question == DECIDE).any() else "",
        "Few seeds.": few_seeds(len(results.seeds)).strip(),
    }
    return {lead: told for lead, told in points.items() if told}


_OBSERVERS = (
    "The observers that decisions are compared with are simulated: they err more under stronger distortion and about "
    "smaller objects, by a formula given below. What is close to them is not thereby close to people."
)


def _accuracies(results: Results) -> str:
    sentences = []
    rows = results.curves[results.curves.question == ACCURACY].set_index(["architecture", "arm", "rung"])["mean"]
    for name in results.architectures:
        last = max(results.rungs(name, LADDER))
        ends = [percent(rows[name, arm, rung]) for arm, rung in ((LADDER, 0), (LADDER, last), (CONTROL, last))]
        at = f"{rung_label(results.sparsity(name, LADDER, last))} % sparsity"
        sentences.append(f"{title(name)} {ends[0]} → {ends[1]} at {at} (dense, trained equally long: {ends[2]})")
    return f"{'; '.join(sentences)}."


def _overall(settings: Any, results: Results, own: Table) -> str:
    counted = []
    for against, meaning in REFERENCES.items():
        verdicts = own.verdict[own.against == against]
        counts = ", ".join(f"{(verdicts == one).sum()} {one}" for one in ("found", "undecided", "not found"))
        counted.append(f"over {meaning}: {counts}, of {len(verdicts)}")
    margin = f" by more than {settings.margin:g}" if settings.margin else ""
    less = list(dict.fromkeys(one.name for one in results.quantities if one.smaller and one.name in set(own.quantity)))
    sign = f" A + means better, also of measures of which less is better ({joined(less)})." if less else ""
    found = own[own.verdict == "found"]
    below = (found.level != "").sum()
    guessed = (
        f" Better is not yet good: of the {len(found)} found, {below} name a rung whose mean is no better than what is "
        "reached without looking (chance, a fixed box, pixels in random order), as is said there."
    )
    return (
        f"A sweet spot is a rung that is better{margin}, tested for all rungs of a ladder at once, for every "
        "architecture and measure but the odd one out, whose triplets share images. Gains "
        f"{'; '.join(counted)}.{sign}{guessed if below else ''} A gain over the dense network can come from pruning or "
        "from the longer training that a rung has had; one over the dense network trained equally long cannot come "
        "from that. The verdicts are many: were nothing gained or lost anywhere, about "
        f"{0.025 * len(own):.2g} of these {len(own)} would be found by chance, and more where seeds differ much."
    )


def _answer(here: Table, against: str) -> str:
    rows = here[here.against == against]
    found = rows[rows.verdict == "found"].sort_values("mean", ascending=False, kind="stable")
    counts = [f"found in {len(found) or 'none'} of {len(rows)}"]
    counts += [f"{one} in {sum(rows.verdict == one)}" for one in ("undecided", "not found") if one in set(rows.verdict)]
    spots = []
    for row in found.head(_MOST).itertuples():
        # The quantity and the method, where the question has several.
        words = [title(row.architecture), row.quantity if rows.quantity.nunique() > 1 else "", method(row.method)]
        spots.append(f"{', '.join(filter(None, words))}: {spot(row)}")
    more = [f"{len(found) - _MOST} more are in the table"] if len(found) > _MOST else []
    listed = f" {'; '.join([*spots, *more])}." if spots else ""
    return f"Against {REFERENCES[against]}: {', '.join(counts)}.{listed}"


def _any_order(tested: Table) -> str:
    rows = tested[(tested.method == RANDOM_MAP) & (tested.verdict == "found")].itertuples()
    spots = [f"{title(one.architecture)}, {one.quantity}, against {REFERENCES[one.against]}" for one in rows]
    told = (
        "Insertion or deletion improves even where pixels come in random order, as decisions need more or fewer "
        f"pixels, whichever they are: {'; '.join(spots)}. The verdicts on methods are of the distance to it."
    )
    return told if spots else ""


def _flat(results: Results) -> str:
    flat = results.flat_maps
    if flat.empty:
        return ""
    ranked = flat.assign(share=flat.flat / flat.maps).sort_values("share", ascending=False, kind="stable")
    dead = ranked[ranked.share > 0.5]
    shown, named = dead if len(dead) else ranked.head(1), []
    for row in shown.head(_MOST).itertuples():
        at = f"{ARMS[row.arm]}, rung of {rung_label(results.sparsity(row.architecture, LADDER, row.rung))} %"
        network = at if row.rung else "dense"
        named.append(f"{method(row.method)} of {title(row.architecture)}, {network} ({row.flat} of {row.maps})")
    more = f"; {len(shown) - _MOST} more are in flat_maps.csv" if len(shown) > _MOST else ""
    lead = "Of these networks more than half are, so that the method says nothing of them:" if len(dead) else "Most:"
    return (
        f"{flat['flat'].sum()} maps have one value everywhere and point nowhere; they count, with the mass 0 or the "
        f"chance level. {lead} {'; '.join(named)}{more}."
    )
