"""Data: sources of labelled images, tasks, disjoint splits, batches, shifted domains."""

from jaxprune.data.batches import Batches, training_batch
from jaxprune.data.digits import digits
from jaxprune.data.shapes import SHAPES, TEXTURES, Scenes, scenes, shapes
from jaxprune.data.shifts import SHIFTS, shift
from jaxprune.data.source import Arrays, Source, select
from jaxprune.data.splits import FRACTIONS, split
from jaxprune.data.tasks import Task, imagenet_tasks, members
from jaxprune.data.tfds import tfds

__all__ = [
    "FRACTIONS",
    "SHAPES",
    "SHIFTS",
    "TEXTURES",
    "Arrays",
    "Batches",
    "Scenes",
    "Source",
    "Task",
    "digits",
    "imagenet_tasks",
    "members",
    "scenes",
    "select",
    "shapes",
    "shift",
    "split",
    "tfds",
    "training_batch",
]
