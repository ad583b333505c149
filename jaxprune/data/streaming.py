"""Images that do not fit into memory: fetched in threads when they are asked for."""

import functools
import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data.source import Source, relabelled


class Stream:
    """The images of some examples of a source, indexed like an array [n, h, w, c] and fetched when indexed.

    Threads fetch one image after the other, each straight into its place in the result.  Decoding and resizing release
    Python's lock, so threads are enough, and nothing is copied between processes.  All streams with as many workers
    share one pool.  The first image is fetched at once: it says what the others are.

    Args:
      source: where the images are; its ``images`` is called in several threads at a time.
      indices: which examples, int [n], one or more.
      workers: how many threads.  None: as many as there are CPUs that this process may use.

    Attributes:
      shape: (n, h, w, c).
      dtype: uint8, where a value v means v / 255, or float32 in [0, 1].

    Raises:
      ValueError: no example; when indexed: an image of another shape or type than the first, or one that is not finite.
        What the source raises comes unchanged, with a note that names the example.

    >>> import jaxprune as jp
    >>> source = jp.data.Arrays("dots", np.zeros((3, 4, 4, 1), np.float32), np.array([0, 1, 0]), ("no", "yes"))
    >>> images = Stream(source, np.array([2, 0]))
    >>> images.shape, images[1:].shape, images[-1].shape, np.asarray(images).shape
    ((2, 4, 4, 1), (1, 4, 4, 1), (4, 4, 1), (2, 4, 4, 1))
    """

    def __init__(self, source: Source, indices: np.ndarray, workers: int | None = None) -> None:
        self._source, self._indices = source, np.asarray(indices)
        if self._indices.ndim != 1 or not self._indices.size or not np.issubdtype(self._indices.dtype, np.integer):
            raise ValueError(
                f"indices: expected the numbers of one or more examples, int [n], but got {self._indices.dtype}"
                f"{list(self._indices.shape)}. Is the split or the task empty?"
            )
        self._workers = usable_cpus() if workers is None else check.whole("workers", workers)
        first = source.images(self._indices[:1])
        self.shape, self.dtype = (len(self._indices), *first.shape[1:]), first.dtype

    @property
    def ndim(self) -> int:
        """The number of axes, 4."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self._indices[index]
        return self._fetch(np.ravel(chosen)).reshape(*np.shape(chosen), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("copy: expected None or True, but got False. The images are not in memory yet.")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def fingerprint(self) -> str:
        """Returns what changes when the images do, without fetching them: that of the source, and which of them."""
        which = hashlib.sha256(np.ascontiguousarray(self._indices, np.int64).tobytes()).hexdigest()
        return f"{self._source.fingerprint()}/{self.dtype}{list(self.shape)}/{which}"

    def _fetch(self, chosen: np.ndarray) -> np.ndarray:
        """Fetches examples of the source, by their numbers there."""
        images = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        waiting = deque(range(len(chosen)))

        def work() -> None:
            # Taking is atomic, so no two threads get the same place.
            while waiting:
                try:
                    place = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    images[place] = self._one(chosen[place : place + 1])
                except BaseException:
                    waiting.clear()  # the other threads stop after what they are at
                    raise

        pool = _pool(self._workers, os.getpid())
        tasks = [pool.submit(work) for _ in range(min(self._workers, len(waiting)))]
        try:
            wait(tasks)
        finally:
            waiting.clear()  # also where the caller was interrupted
        for task in tasks:
            task.result()
        return images

    def _one(self, chosen: np.ndarray) -> np.ndarray:
        """Fetches the image of one index [1], and checks that it is like the first."""
        number = int(chosen[0])
        try:
            (image,) = self._source.images(chosen)
        except Exception as error:
            error.add_note(f"while fetching example {number} of {self._source.name}")
            raise
        if image.shape != self.shape[1:] or image.dtype != self.dtype:
            raise ValueError(
                f"images of {self._source.name}: expected {self.dtype}{list(self.shape[1:])}, as the first image is, "
                f"but example {number} is {image.dtype}{list(image.shape)}. Bring all images to one size and type."
            )
        # By NumPy: a program of XLA would be called for every image.
        if np.issubdtype(self.dtype, np.inexact) and not np.isfinite(image).all():
            raise ValueError(
                f"images of {self._source.name}: expected finite numbers, but example {number} holds NaN or infinity. "
                "Find and drop these images."
            )
        return image


def stream(
    source: Source,
    indices: np.ndarray,
    classes: tuple[int, ...] | None = None,
    *,
    complete: bool = True,
    workers: int | None = None,
) -> dict[str, Any]:
    """Makes the counterpart of ``select`` for data that do not fit into memory: images come when batches need them.

    Args:
      source: where the images are.
      indices: which examples; those of other classes are left out.
      classes: the classes of a task, as numbered by the source.  None: all.
      complete: whether every class must have an example.
      workers: how many threads fetch.  None: as many as there are CPUs that this process may use.

    Returns:
      ``{"image": Stream [n, h, w, c], "label": int32 [n]}``, for ``Batches``, ``training_batch`` and ``train.fit``.

    Raises:
      ValueError: a class is unknown, or has no example among ``indices``.

    >>> import jaxprune as jp
    >>> source = jp.data.Arrays("dots", np.zeros((3, 4, 4, 1), np.float32), np.array([0, 1, 1]), ("no", "yes"))
    >>> data = stream(source, np.arange(3), (1,))
    >>> data["image"].shape, data["label"]
    ((2, 4, 4, 1), array([0, 0], dtype=int32))
    """
    chosen, labels = relabelled(source, indices, classes, complete=complete)
    return {"image": Stream(source, chosen, workers), "label": labels}


def usable_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    # Not every system can bind a process to some of its CPUs.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """One pool for a number of workers.  A forked process has no threads of its parent, and gets its own."""
    del process
    return ThreadPoolExecutor(workers, thread_name_prefix="jaxprune-fetch")
