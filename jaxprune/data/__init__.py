"""Data: sources of labelled images, tasks, disjoint splits, batches, shifted domains, corruptions, masks and boxes."""

from jaxprune.data.annotated import Annotated, annotated_scenes
from jaxprune.data.batches import Batches, training_batch
from jaxprune.data.corruptions import CORRUPTIONS, corrupt
from jaxprune.data.digits import digits
from jaxprune.data.distortions import DISTORTIONS, distort, mean_amplitude
from jaxprune.data.folder import Folder, folder
from jaxprune.data.idx import idx
from jaxprune.data.masked_sets import annotated_folder, annotated_tfds
from jaxprune.data.npz import npz, npz_parts
from jaxprune.data.prefetching import prefetch
from jaxprune.data.preprocessed import Preprocessed
from jaxprune.data.preprocessing import normalise, preprocess
from jaxprune.data.progress import with_progress
from jaxprune.data.shape_classes import shape_tasks, shapes
from jaxprune.data.shapes import COLOURS, SHAPES, TEXTURES, Scenes, scenes
from jaxprune.data.shifts import SHIFTS, shift
from jaxprune.data.source import Arrays, Source, as_float, relabelled, select
from jaxprune.data.splits import FRACTIONS, split
from jaxprune.data.streaming import Stream, stream
from jaxprune.data.tasks import Task, find_task, imagenet_tasks
from jaxprune.data.teacher import with_teacher
from jaxprune.data.tfds import tfds
from jaxprune.data.voc import voc

__all__ = [
    "COLOURS",
    "CORRUPTIONS",
    "DISTORTIONS",
    "FRACTIONS",
    "SHAPES",
    "SHIFTS",
    "TEXTURES",
    "Annotated",
    "Arrays",
    "Batches",
    "Folder",
    "Preprocessed",
    "Scenes",
    "Source",
    "Stream",
    "Task",
    "annotated_folder",
    "annotated_scenes",
    "annotated_tfds",
    "as_float",
    "corrupt",
    "digits",
    "distort",
    "find_task",
    "folder",
    "idx",
    "imagenet_tasks",
    "mean_amplitude",
    "normalise",
    "npz",
    "npz_parts",
    "prefetch",
    "preprocess",
    "relabelled",
    "scenes",
    "select",
    "shape_tasks",
    "shapes",
    "shift",
    "split",
    "stream",
    "tfds",
    "training_batch",
    "voc",
    "with_progress",
    "with_teacher",
]
