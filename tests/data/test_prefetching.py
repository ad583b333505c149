"""What is made in the background comes in order, not too early, and leaves no thread behind."""

import io
import threading
from functools import partial

import jax
import numpy as np
import pytest
import rich
import rich.console
import rich.progress

import jaxprune as jp
from jaxprune.data.prefetching import in_background

PATIENCE = 900.0  # of what would hang; nothing takes that long


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jaxprune-ahead")]


class Notes:
    """A function that notes what it was called with, and lets others wait for that."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad, self.called, self.news = bad, [], threading.Condition()

    def __call__(self, number: int) -> int:
        with self.news:
            self.called.append(number)
            self.news.notify_all()
        if number == self.bad:
            raise OSError(f"{number}.jpg is broken")
        return number * number

    def wait_for(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.called) >= count, PATIENCE)


@pytest.mark.parametrize("ahead", [1, 2, 5, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_in_background_gives_results_in_order_and_each_once(ahead, count):
    notes = Notes()
    assert list(in_background(notes, iter(range(count)), ahead)) == [number**2 for number in range(count)]
    assert sorted(notes.called) == list(range(count))
    assert threads() == []


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_in_background_makes_what_comes_next_and_no_more_than_that(ahead):
    notes = Notes()
    results = in_background(notes, range(100), ahead)
    assert notes.called == []  # nothing before it is asked for
    for turn in range(3):
        next(results)
        notes.wait_for(turn + 1 + ahead)  # while the caller holds result `turn`
        assert sorted(notes.called) == list(range(turn + 1 + ahead))
    results.close()
    assert threads() == []


def test_in_background_makes_several_at_the_same_time():
    meeting = threading.Barrier(3)
    assert list(in_background(lambda number: meeting.wait(PATIENCE) >= 0, range(9), 3)) == [True] * 9


def test_in_background_raises_an_error_in_place_of_its_result():
    results = in_background(Notes(bad=3), range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(OSError, match=r"^3\.jpg is broken$"):
        next(results)
    assert threads() == []
    assert list(results) == []


def test_in_background_leaves_no_thread_when_a_loop_ends_early():
    for result in in_background(Notes(), range(100)):
        if result == 4:
            break
    del result
    assert threads() == []

    def interrupted() -> None:
        for result in in_background(Notes(), range(100)):
            if result == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threads() == []


# ------------------------------------------------------------------------------------------------------- batches


def batches(count: int = 29, size: int = 8) -> jp.data.Batches:
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1) / 100
    return jp.data.Batches({"image": images, "label": np.arange(count)}, size)


def test_prefetch_gives_the_batches_every_time():
    plain, early = batches(), jp.data.prefetch(batches(), ahead=3)
    assert len(early) == len(plain) == 4
    for _ in range(2):
        for left, right in zip(plain, early, strict=True):
            jax.tree.map(np.testing.assert_array_equal, left, right)
    assert early[-1]["label"].tolist() == plain[-1]["label"].tolist()
    assert [batch["label"][0] for batch in early[1:3]] == [8, 16]
    assert threads() == []


def test_prefetch_places_batches_in_the_background():
    where = set()

    def place(batch):
        where.add(threading.current_thread().name)
        return jp.mesh.shard_batch(mesh, batch)

    mesh = jp.mesh.make()
    early = jp.data.prefetch(batches(32), place=place)
    for batch in early:
        assert len(batch["image"].sharding.device_set) == 8
    assert all(name.startswith("jaxprune-ahead") for name in where)
    assert early[0]["image"].sharding == next(iter(early))["image"].sharding
    score = jp.scores.snip(jp.losses.cross_entropy)
    net = jp.Network(lambda params, state, images: images.reshape(-1, 1) @ params["w"], {"w": np.ones((1, 32))})
    np.testing.assert_allclose(score(net, early)["w"], score(net, batches(32))["w"], rtol=1e-12)


def test_prefetch_raises_an_error_of_place():
    early = jp.data.prefetch(batches(29, 9), place=partial(jp.mesh.shard_batch, jp.mesh.make()))
    with pytest.raises(ValueError, match=r"batch: expected a multiple of 8, .*but got 9"):
        list(early)
    assert threads() == []


def test_prefetch_refuses_bad_input_at_once(unchecked):
    with pytest.raises(ValueError, match="ahead: expected a whole number of 1 or more, but got 0"):
        jp.data.prefetch(batches(), ahead=0)
    with pytest.raises(ValueError, match="ahead: expected a whole number of 1 or more, but got 0"):
        in_background(abs, [1], 0)
    with pytest.raises(TypeError, match=r"batches: expected a sequence, .* but got a list_iterator.*make a list"):
        jp.data.prefetch(iter([{}]))


# ------------------------------------------------------------------------------------------------------ progress


def test_with_progress_gives_the_batches_on_and_prints_nothing_without_a_terminal(capsys):
    shown = jp.data.with_progress(batches(), "accuracy")
    assert len(shown) == 4
    for _ in range(2):
        assert [batch["label"][0] for batch in shown] == [0, 8, 16, 24]
    assert shown[-1]["label"][0] == 24
    assert capsys.readouterr() == ("", "")


def test_with_progress_shows_images_per_second_in_a_terminal(monkeypatch):
    screen, now = io.StringIO(), [0.0]
    console = rich.console.Console(file=screen, force_terminal=True, width=120, get_time=lambda: now[0])
    monkeypatch.setattr(rich, "get_console", lambda: console)
    monkeypatch.setattr(rich.progress, "get_console", lambda: console)
    for _ in jp.data.with_progress(batches(), "accuracy"):
        now[0] += 0.5
    shown = screen.getvalue()
    assert "accuracy" in shown
    assert " 16 images/s" in shown
