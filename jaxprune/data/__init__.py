"""Data: sources of labelled images, tasks, disjoint splits, batches, shifted domains, corruptions."""

from jaxprune.data.batches import Batches, training_batch
from jaxprune.data.corruptions import CORRUPTIONS, corrupt
from jaxprune.data.digits import digits
from jaxprune.data.shape_classes import shape_tasks, shapes
from jaxprune.data.shapes import COLOURS, SHAPES, TEXTURES, Scenes, scenes
from jaxprune.data.shifts import SHIFTS, shift
from jaxprune.data.source import Arrays, Source, select
from jaxprune.data.splits import FRACTIONS, split
from jaxprune.data.tasks import Task, find_task, imagenet_tasks
from jaxprune.data.tfds import tfds

__all__ = [
    "COLOURS",
    "CORRUPTIONS",
    "FRACTIONS",
    "SHAPES",
    "SHIFTS",
    "TEXTURES",
    "Arrays",
    "Batches",
    "Scenes",
    "Source",
    "Task",
    "corrupt",
    "digits",
    "find_task",
    "imagenet_tasks",
    "scenes",
    "select",
    "shape_tasks",
    "shapes",
    "shift",
    "split",
    "tfds",
    "training_batch",
]
