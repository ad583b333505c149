"""Tasks: named groups of the classes of a source."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jaxprune import check


@dataclass(frozen=True)
class Task:
    """A classification task: some classes of a source.

    Attributes:
      name: what tables and figures call it.
      classes: the classes, as numbered by the source; their order numbers them inside the task.
    """

    name: str
    classes: tuple[int, ...]

    @property
    def chance(self) -> float:
        """The accuracy of guessing, 1 / number of classes."""
        return 1 / len(self.classes)


def imagenet_tasks() -> tuple[Task, ...]:
    """Returns the ten disjoint, semantically grouped ten-class subsets of ImageNet-1k.

    Source: the public code of Iurada, Ciccone and Tommasi (CVPR 2024), where its transfer experiment uses them.

    >>> [task.name for task in imagenet_tasks()][:3]
    ['food', 'landscape', 'birds']
    """
    text = resources.files("jaxprune.data").joinpath("imagenet_tasks.json").read_text()
    return tuple(Task(name, tuple(classes)) for name, classes in json.loads(text).items())


def find_task(tasks: Sequence[Task], name: str) -> Task:
    """Returns the task of that name.

    Raises:
      ValueError: there is none; the message offers the nearest name.

    >>> find_task([Task("low", (0, 1)), Task("high", (2, 3))], "high").classes
    (2, 3)
    """
    named = {task.name: task for task in tasks}
    return named[check.choice("task", name, named)]
