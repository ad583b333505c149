"""Scenes as a classification problem: one hundred classes, a shape with a texture each."""

import jax
import numpy as np

from jaxprune import check
from jaxprune.data.shapes import SHAPES, TEXTURES, scenes
from jaxprune.data.source import Arrays
from jaxprune.data.tasks import Task


def shapes(seed: int, *, per_class: int = 100, image: int = 32, difficulty: float = 0.25) -> Arrays:
    """Paints single-object scenes of the hundred classes shape x texture, the same number of each.

    Args:
      seed: another seed paints other scenes.
      per_class: scenes of each class.
      image: side of the images in pixels, 32 or more.
      difficulty: in [0, 1], see ``jp.data.scenes``.

    Returns:
      Float32 [100 * per_class, image, image, 3] in [0, 1]; class ``10 * shape + texture`` is called "dots star".

    >>> source = shapes(0, per_class=1)
    >>> source.pixels.shape, len(source.classes)
    ((100, 32, 32, 3), 100)
    """
    check.positive("per_class", per_class)
    count = len(SHAPES) * len(TEXTURES)
    labels = np.tile(np.arange(count, dtype=np.int32), per_class)
    shape, texture = np.divmod(labels, len(TEXTURES))
    made = scenes(jax.random.key(seed), len(labels), image=image, difficulty=difficulty, shape=shape, texture=texture)
    names = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)
    return Arrays(f"shapes-{seed}-{image}-{difficulty:g}", made.image.astype(np.float32) / 255, labels, names)


def shape_tasks() -> tuple[Task, ...]:
    """Groups the hundred classes into ten disjoint tasks in which every shape and every texture occurs once.

    Task g pairs shape s with texture (s + g) mod 10, so neither shape nor texture has to be known alone, and no task
    shares a pair with another.

    >>> [len(task.classes) for task in shape_tasks()] == [10] * 10
    True
    """
    count = len(SHAPES)
    return tuple(
        Task(f"pairs-{shift}", tuple(count * shape + (shape + shift) % count for shape in range(count)))
        for shift in range(count)
    )
