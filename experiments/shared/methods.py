"""How a network is pruned, along three axes: what is to stay (objective), what ranks (score), what moves (update).

A method is a word, ``[objective/]score[+update]``: ``magnitude``, ``label/diagonal``, ``logits/greedy+surgeon``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from experiments.shared import named, options
from experiments.shared.settings import each_once, listed
from jaxprune import check

OBJECTIVES: Mapping[str, str] = {
    "label": "the loss of the labels of the source, through its frozen head",
    "source-head": "the squared distance to what the frozen source head said before",
    "logits": "the squared distance to the network's own outputs, all classes of its pretraining, on source images",
    "features": "the squared distance to the network's own features, on source images",
    "logits-of-all": "as logits, on more, unlabelled images of all tasks; not zero-shot",
}
"""What is asked to stay, in words.  None of them reads what lies in the heads of other tasks."""

UPDATES: Mapping[str, str] = {
    "none": "kept weights stay as they are",
    "surgeon": "kept weights are re-adjusted once, inside the block of their unit",
    "rounds": "all kept weights move in every round, by Gauss-Newton steps",
    "adam": "the control of rounds: Adam for as many gradients, on the same objective and images",
}
"""What becomes of the weights that stay, in words."""

_WITHOUT_OBJECTIVE = ("magnitude", "synflow", "random")
_OF_SLOPES = ("snip", "grasp", "fisher")


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a network was pruned; the dense one was not.  Part of the configuration of every run.

    Attributes:
      objective: one of ``OBJECTIVES``, or "none" where nothing asks for one.
      score: what ranks the weights.
      update: one of ``UPDATES``.
    """

    objective: str
    score: str
    update: str

    @property
    def word(self) -> str:
        """The method as a word, which names its rows and lines."""
        return word_of(vars(self))


DENSE = Method(objective="none", score="dense", update="none")

Methods = Annotated[tuple[named.Named, ...], listed(options.SCORES, own=True, alias="--method")]
"""A setting of several methods: words, or functions of the user's that score."""


def word_of(config: Mapping[str, Any]) -> str:
    """Writes the method of a configuration as a word.

    >>> word_of({"objective": "logits", "score": "greedy", "update": "surgeon"})
    'logits/greedy+surgeon'
    """
    before = "" if config["objective"] == "none" else f"{config['objective']}/"
    return f"{before}{config['score']}{'' if config['update'] == 'none' else '+' + config['update']}"


def parse(word: Any, setting: str = "methods") -> Method:
    """Reads a method; a score that asks for an objective, and names none, has that of the labels.

    Args:
      word: a word, or a function of the user's that scores.
      setting: where it stands, for messages.

    Raises:
      ValueError: an objective, a score or an update that is not known; ones that do not fit together.

    >>> parse("diagonal").word, parse("magnitude").word
    ('label/diagonal', 'magnitude')
    """
    if not isinstance(word, str):
        objective = "label" if options.reads_loss(setting, word) else "none"
        return Method(objective=objective, score=named.versioned(word, setting), update="none")
    before, _, after = word.rpartition("/")
    score, _, update = after.partition("+")
    update = update or "none"
    check.choice(f"{setting}: update", update, UPDATES, ordered=True)
    if before:
        check.choice(f"{setting}: objective", before, OBJECTIVES, ordered=True)
    options.check_score(setting, score)
    reads_none = score in _WITHOUT_OBJECTIVE or not options.reads_loss(setting, score)
    objective = before or ("none" if reads_none and update == "none" else "label")
    if not before and reads_none and update != "none":
        raise ValueError(
            f"{setting}: expected the objective that {update} reads, since {score} reads none, but got {word!r}. Write "
            f"'logits/{word}', or 'label/{word}' for the loss of the labels."
        )
    if before and reads_none and update == "none":
        raise ValueError(f"{setting}: {score} reads no objective, but {word!r} names one. Write {score!r}.")
    if score in _OF_SLOPES and objective not in ("none", "label"):
        raise ValueError(
            f"{setting}: {score} ranks by a gradient, but that of {OBJECTIVES[objective]} is zero where the network "
            f"stands. Write 'label/{score}', or a second-order score such as '{objective}/diagonal'."
        )
    return Method(objective=objective, score=named.versioned(score, setting), update=update)


def parsed(settings: Any) -> tuple[Method, ...]:
    """Reads all methods of a study, each once."""
    found = tuple(parse(word) for word in settings.methods)
    each_once("methods", tuple(one.word for one in found))
    return found


def with_word(record: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the word of the method to the configuration of a record, where it has one."""
    config = record["config"]
    return {**record, "config": config | {"method": word_of(config)} if "update" in config else config}
