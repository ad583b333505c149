"""A bar with images per second; it appears in a terminal, and vanishes when it is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rich
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from jaxprune import losses


def with_progress(batches: Sequence[Any], name: str) -> Sequence[Any]:
    """Shows a bar with images per second whenever the batches are iterated.  Where there is no terminal: nothing.

    A batch counts when the next one is asked for, with its padding.

    Args:
      batches: such as ``Batches``; what is given on are the same.
      name: stands before the bar.

    Returns:
      A sequence of as many batches.

    >>> import numpy as np
    >>> [batch["label"].tolist() for batch in with_progress([{"label": np.arange(2)}], "accuracy")]
    [[0, 1]]
    """
    return _Shown(batches, name)


@contextmanager
def bar(name: str | None, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows a bar for as long as the block runs, and gives a function that counts one batch: ``count(examples)``.

    Args:
      name: stands before the bar.  None, or no terminal: no bar.
      total: how many batches there are.
      done: how many of them were done before.

    >>> with bar(None, 10) as count:
    ...     count(64)
    """
    # Asked here: without a terminal rich would still print an empty line.
    if name is None or not rich.get_console().is_terminal:
        yield lambda examples: None
        return
    with Progress(*Progress.get_default_columns(), _Speed(), transient=True) as progress:
        task = progress.add_task(name, total=total, completed=done, examples=0)
        yield lambda examples: progress.update(task, advance=1, examples=examples)


class _Speed(ProgressColumn):
    """Images per second, from the batches per second that rich measures."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * task.fields['examples']:,.0f} images/s")


class _Shown(Sequence[Any]):
    def __init__(self, batches: Sequence[Any], name: str) -> None:
        self._batches, self._name = batches, name

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return self._batches[index]

    def __iter__(self) -> Iterator[Any]:
        with bar(self._name, len(self)) as count:
            for batch in self._batches:
                yield batch
                count(losses.examples(batch))
