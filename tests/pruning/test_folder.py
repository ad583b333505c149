"""Rounds in a folder go on where they were, and never into those of another call."""

import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.pruning.test_compensation import GREEDY, MAGNITUDE, PRUNABLE, flat, images, network

SCHEDULE = (0.2, 0.4, 0.6)


def rounds(folder: Any, score: Any = GREEDY, schedule: Any = SCHEDULE, **options: Any) -> Any:
    return jp.pruning.surgeon_rounds(network(), score, [images(1, 40)], PRUNABLE, schedule, folder=folder, **options)


def same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(flat(one.params), flat(other.params))
    np.testing.assert_array_equal(flat(one.mask), flat(other.mask))
    assert (one.number, one.sparsity, one.attempts) == (other.number, other.sparsity, other.attempts)
    assert one.budgets == other.budgets


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_surgeon_rounds_go_on_after_the_last_round_of_a_folder(tmp_path, stop):
    whole = list(rounds(None))
    begun = list(itertools.islice(rounds(tmp_path), stop))
    again = list(rounds(tmp_path))
    assert [found.number for found in again] == list(range(stop - 1, 3))
    for one, other in zip([*begun, *again[1:]], whole, strict=True):
        same(one, other)
    same(again[0], begun[-1])
    written = json.loads((tmp_path / "trajectory.json").read_text())
    assert [line["attempts"][0]["steps"] for line in written["rounds"]] == [found.attempts[0].steps for found in whole]


def test_surgeon_rounds_whose_arrays_were_lost_go_on_after_the_round_before(tmp_path):
    """As though the process had been killed between the line of a round and its arrays."""
    list(itertools.islice(rounds(tmp_path), 2))
    (tmp_path / "00000001").rename(tmp_path / ".tmp-lost")
    for one, other in zip(rounds(tmp_path), rounds(None), strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"damping": 0.2}, "these differ: damping"),
        ({"schedule": (0.2, 0.5)}, "these differ: schedule"),
        ({"scope": {**PRUNABLE, "first/bias": True, "first/kernel": False}}, "these differ: scope"),
        ({"objective": jp.losses.distillation("kl")}, "these differ: objective"),
        ({"held_out": [images(5, 8)]}, "these differ: batches, held_out"),
        ({"score": MAGNITUDE}, "its first round prunes other weights"),
    ],
)
def test_surgeon_rounds_never_go_on_after_those_of_another_call(tmp_path, changes, message):
    next(rounds(tmp_path))
    with pytest.raises(ValueError, match=f"folder: expected rounds of this call in .*{message}"):
        next(rounds(tmp_path, **changes))


def test_surgeon_rounds_tell_a_loss_of_the_same_name_by_its_value(tmp_path):
    def made(factor: float) -> Any:
        def loss(outputs: Any, batch: Any) -> Any:
            return factor * jnp.sum(outputs**2, axis=1)

        return loss

    next(rounds(tmp_path, MAGNITUDE, objective=made(1.0)))
    with pytest.raises(ValueError, match=r"its first round begins at .*, not"):
        next(rounds(tmp_path, MAGNITUDE, objective=made(2.0)))


def test_surgeon_rounds_say_which_file_is_damaged(tmp_path):
    next(rounds(tmp_path))
    (tmp_path / "trajectory.json").write_text("{")
    with pytest.raises(ValueError, match=r"folder: '.*trajectory\.json' is damaged"):
        next(rounds(tmp_path))


def test_surgeon_rounds_refuse_a_folder_of_other_checkpoints(tmp_path):
    jp.checkpoint.save(tmp_path, 3, jax.tree.map(np.asarray, network().params))
    with pytest.raises(ValueError, match="holds checkpoints that are no rounds"):
        next(rounds(tmp_path))
