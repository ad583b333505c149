import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxprune import checkpoint, exclusive, files

# Where a file is damaged, Orbax closes its event loop before its threads are done with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Moments(NamedTuple):
    first: Any
    second: Any


def state(value: float = 1.0) -> dict[str, Any]:
    return {
        "mask": np.array([True, False, True]),
        "count": np.asarray(3, np.int32),
        "long": np.arange(2, dtype=np.uint32),
        "scale": np.asarray(value, np.float32),
        "kernel": np.arange(300, dtype=np.float32).reshape(20, 15) * np.float32(value),
        "half": np.full((2, 2), value, ml_dtypes.bfloat16),
        "moments": Moments({"w": np.full(4, value, np.float16)}, (np.zeros((1, 3), np.float32), [np.ones(1, np.int8)])),
        "nothing": {},
    }


def same(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (np.asarray(left).dtype, np.shape(left)) == (np.asarray(right).dtype, np.shape(right))
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def arrays(folder: Path) -> list[Path]:
    """The files that hold the numbers of a checkpoint."""
    return sorted(path for path in folder.rglob("d/*") if path.is_file())


def flip(path: Path, place: float = 0.5) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 0x10
    path.write_bytes(bytes(raw))


def test_restore_gives_a_tree_back_bit_for_bit(tmp_path):
    path = checkpoint.save(tmp_path, 7, state())
    assert path == tmp_path / "00000007"
    step, got = checkpoint.restore(tmp_path, state(0.0)) or (None, None)
    assert step == 7
    same(got, state())
    assert isinstance(got["moments"], Moments)


def test_restore_gives_numbers_back_that_equal_nothing(tmp_path):
    odd = {"w": np.array([np.nan, -0.0, np.inf, np.float32(1e-45)], np.float32)}
    checkpoint.save(tmp_path, 1, odd)
    same(checkpoint.restore(tmp_path, {"w": np.zeros(4, np.float32)}), (1, odd))


def test_restore_gives_jax_arrays_back_as_jax_arrays(tmp_path):
    tree = jax.tree.map(jnp.asarray, state())
    checkpoint.save(tmp_path, 1, tree)
    _, got = checkpoint.restore(tmp_path, jax.tree.map(jnp.zeros_like, tree)) or (None, None)
    same(got, tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))


def test_restore_binds_to_a_device_what_was_bound_to_it(tmp_path):
    free, bound = jnp.zeros(3), jax.device_put(jnp.zeros(3), jax.devices()[1])
    checkpoint.save(tmp_path, 1, [free, bound])
    _, got = checkpoint.restore(tmp_path, [free, bound]) or (None, None)
    # Another would be another argument to jit, which compiles every program of the network anew.
    assert [leaf.committed for leaf in got] == [False, True]
    assert [leaf.devices() for leaf in got] == [free.devices(), bound.devices()]


def test_restore_leaves_free_what_was_free_on_the_device_where_it_lay(tmp_path):
    with jax.default_device(jax.devices()[1]):
        free = jnp.zeros(3)
    checkpoint.save(tmp_path, 1, [free])
    _, (got,) = checkpoint.restore(tmp_path, [free]) or (None, [None])
    assert (got.devices(), got.committed) == (free.devices(), False) == ({jax.devices()[1]}, False)


def test_restore_takes_the_newest_of_the_few_that_save_keeps(tmp_path):
    for step in (1, 9, 10, 200):
        checkpoint.save(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000200"]
    checkpoint.save(tmp_path, 201, state(201), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["00000201"]
    same(checkpoint.restore(tmp_path, state()), (201, state(201)))


def test_restore_gives_nothing_from_nothing(tmp_path):
    assert checkpoint.restore(tmp_path / "missing", state()) is None
    assert checkpoint.restore(tmp_path, state()) is None


def test_save_refuses_an_existing_step_and_leaves_it_as_it_was(tmp_path):
    checkpoint.save(tmp_path, 3, state())
    with pytest.raises(ValueError, match=r"step: '.*00000003' exists\. Resume from it, or choose another folder"):
        checkpoint.save(tmp_path, 3, state(2.0))
    same(checkpoint.restore(tmp_path, state()), (3, state()))


def test_save_refuses_a_step_below_the_newest_before_anything_is_written(tmp_path):
    for step in (900, 1000):
        checkpoint.save(tmp_path, step, state(step))
    with pytest.raises(ValueError, match=r"step: expected one above 1000, the newest in '.*', but got 8\. Restore"):
        checkpoint.save(tmp_path, 8, state(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000900", "00001000"]


def test_save_goes_on_from_an_older_step_where_the_newer_one_is_damaged(tmp_path):
    for step in (4, 8):
        checkpoint.save(tmp_path, step, state(step))
    (tmp_path / "00000008" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="00000008' is damaged"):
        same(checkpoint.restore(tmp_path, state()), (4, state(4)))
    for step in (6, 8):
        assert checkpoint.save(tmp_path, step, state(-step)).is_dir()
    same(checkpoint.restore(tmp_path, state()), (8, state(-8)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("step", [-1, 2.0, "3", True])
def test_save_refuses_what_is_no_step(tmp_path, step):
    with pytest.raises(ValueError, match="step: expected a whole number of 0 or more, but got"):
        checkpoint.save(tmp_path, step, SMALL)


@pytest.mark.parametrize("name", ["5", "000000007", "²", "\u0663" * 8])
def test_steps_are_folders_that_save_would_name_so(tmp_path, name):
    checkpoint.save(tmp_path, 3, SMALL)
    (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == [3]
    same(checkpoint.restore(tmp_path, SMALL), (3, SMALL))
    for step in (4, 10**8):
        checkpoint.save(tmp_path, step, SMALL, keep=1)
    assert checkpoint.steps(tmp_path) == [10**8]
    assert (tmp_path / name).is_dir()


def test_save_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder: cannot write in '.*file/runs' \(Not a directory\)"):
        checkpoint.save(tmp_path / "file" / "runs", 1, state())


def test_restore_ignores_strays_of_killed_processes(tmp_path):
    (tmp_path / ".tmp-0123").mkdir()
    (tmp_path / ".tmp-0123" / "manifest.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "00000099").write_text("a file, no folder")
    assert checkpoint.restore(tmp_path, state()) is None
    checkpoint.save(tmp_path, 3, state())
    same(checkpoint.restore(tmp_path, state()), (3, state()))


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_restore_falls_back_by_a_flipped_byte_in_any_array_file_or_changes_nothing(tmp_path, place):
    checkpoint.save(tmp_path, 1, state(1.0))
    newest = checkpoint.save(tmp_path, 2, state(2.0))
    damaged = 0
    for path in arrays(newest):
        whole = path.read_bytes()
        flip(path, place)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = checkpoint.restore(tmp_path, state())
        # Some files hold nothing that a restore needs.
        if caught:
            damaged += 1
            assert "00000002' is damaged" in str(caught[0].message)
        same(got, (1, state(1.0)) if caught else (2, state(2.0)))
        for aside in tmp_path.glob(".damaged-*"):
            aside.rename(newest)
        path.write_bytes(whole)
    assert damaged > 0


def test_restore_warns_of_a_step_under_the_name_of_another(tmp_path):
    older, newest = (checkpoint.save(tmp_path, step, state(float(step))) for step in (1, 2))
    shutil.rmtree(newest)
    shutil.copytree(older, newest)
    with pytest.warns(UserWarning, match="00000002' is damaged .*it is that of step 1"):
        got = checkpoint.restore(tmp_path, state())
    same(got, (1, state(1.0)))


def test_restore_warns_of_changed_numbers_that_orbax_restores_without_a_word(tmp_path):
    # Random bytes are stored as they are; where bytes are packed, unpacking finds most of the damage by itself.
    def leaf(seed: int) -> dict[str, Any]:
        return {"w": np.random.default_rng(seed).integers(0, 256, 2**16).astype(np.uint8)}

    checkpoint.save(tmp_path, 1, leaf(1))
    newest = checkpoint.save(tmp_path, 2, leaf(2))
    flip(max(arrays(newest), key=lambda path: path.stat().st_size))
    with pytest.warns(UserWarning, match=r"00000002' is damaged \(the bytes of w have changed\)"):
        got = checkpoint.restore(tmp_path, leaf(0))
    same(got, (1, leaf(1)))


def test_restore_warns_of_a_damaged_checkpoint_and_takes_the_one_before(tmp_path):
    checkpoint.save(tmp_path, 1, state(1.0))
    newest = checkpoint.save(tmp_path, 2, state(2.0))
    for path in arrays(newest):
        flip(path)
    with pytest.warns(UserWarning, match=r"The checkpoint '.*00000002' is damaged \(.*\); trying the one before it"):
        got = checkpoint.restore(tmp_path, state())
    same(got, (1, state(1.0)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]),
        lambda path: path.write_text(path.read_text().replace('"leaves"', '"lraves"')),
        lambda path: path.write_text(path.read_text().replace('"name"', '"nane"', 1)),
        lambda path: path.write_text(path.read_text().replace('"sha256"', '"sha255"', 1)),
        lambda path: path.write_text(json.dumps({"leaves": [1, 2]})),
    ],
    ids=["missing", "empty", "other JSON", "half", "not text", "no leaves", "no name", "no hash", "no rows"],
)
def test_restore_warns_of_a_damaged_manifest_and_takes_the_one_before(tmp_path, damage):
    checkpoint.save(tmp_path, 1, state(1.0))
    damage(checkpoint.save(tmp_path, 2, state(2.0)) / "manifest.json")
    with pytest.warns(UserWarning, match="00000002' is damaged .*; trying the one before it"):
        got = checkpoint.restore(tmp_path, state())
    same(got, (1, state(1.0)))


def test_restore_warns_of_missing_arrays_and_takes_the_one_before(tmp_path):
    checkpoint.save(tmp_path, 1, state(1.0))
    shutil.rmtree(checkpoint.save(tmp_path, 2, state(2.0)) / "arrays")
    with pytest.warns(UserWarning, match=r"00000002' is damaged \(its arrays cannot be read"):
        got = checkpoint.restore(tmp_path, state())
    same(got, (1, state(1.0)))


def test_restore_refuses_where_every_checkpoint_is_damaged(tmp_path):
    for step in (1, 2):
        for path in arrays(checkpoint.save(tmp_path, step, state())):
            flip(path)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=r"folder: every checkpoint in '.*' is damaged\. Call again to start anew"),
    ):
        checkpoint.restore(tmp_path, state())


SMALL = {"a": np.zeros(3, np.float32), "b": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {**SMALL, "b": np.zeros((2, 3), np.float32)},
            r"holds \('b', \(2, 2\), 'float32'\) where \('b', \(2, 3\), 'float32'\)",
        ),
        (
            {**SMALL, "b": np.zeros((2, 2), np.int32)},
            r"holds \('b', \(2, 2\), 'float32'\) where \('b', \(2, 2\), 'int32'\)",
        ),
        (
            {**SMALL, "a": np.zeros(3, ml_dtypes.bfloat16)},
            r"holds \('a', \(3,\), 'float32'\) where \('a', \(3,\), 'bfloat16'\)",
        ),
        ({"a": SMALL["a"], "c": SMALL["b"]}, r"holds \('b', .*\) where \('c', .*\) was expected"),
        ({"a": SMALL["a"]}, "holds 2 arrays where 1 were expected"),
        ({**SMALL, "c": SMALL["a"]}, "holds 2 arrays where 3 were expected"),
    ],
)
def test_restore_names_the_leaf_of_a_checkpoint_of_something_else(tmp_path, like, message):
    checkpoint.save(tmp_path, 1, SMALL)
    with pytest.raises(ValueError, match=f"00000001' is of another network or optimizer: it {message}.*Choose another"):
        checkpoint.restore(tmp_path, like)


def test_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, SMALL)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxprune.files.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


def test_save_that_dies_while_it_deletes_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def dying(path: Path, *_: Any, **__: Any) -> None:
        if (Path(path) / "arrays").exists():
            remove(Path(path) / "arrays")
            raise KeyboardInterrupt
        remove(path, ignore_errors=True)

    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt):
        _ = [checkpoint.save(tmp_path, step, SMALL) for step in range(5)]
    monkeypatch.undo()
    demand_whole(tmp_path, SMALL)


def demand_whole(folder: Path, like: Any) -> None:
    """Restores every checkpoint on its own; a warning is an error."""
    found = [path for path in folder.iterdir() if path.name.isdigit()]
    for path in found:
        alone = folder.parent / f"alone-{folder.name}"
        alone.mkdir()
        shutil.copytree(path, alone / path.name)
        step, got = checkpoint.restore(alone, like) or (None, None)
        assert (step, jax.tree.structure(got)) == (int(path.name), jax.tree.structure(like))
        shutil.rmtree(alone)


# The modules are imported once, before the forks; no device is touched there.
KILLED = """
import os, random, signal, sys, time
import numpy as np
from jaxprune import checkpoint, exclusive

folder = sys.argv[1]
random.seed(0)
for turn in range(5):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(1000 * turn, 1000 * turn + 999):
            checkpoint.save(folder, step, {"w": np.full((400, 500), step, np.float32), "b": np.float32(step)})
            os.write(writing, b".")
    os.read(reading, 1)
    time.sleep(random.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_save_that_is_killed_leaves_whole_checkpoints(tmp_path):
    folder = tmp_path / "runs"
    subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, str(folder)], check=True, timeout=900)
    like = {"w": np.zeros((400, 500), np.float32), "b": np.float32(0)}
    step, got = checkpoint.restore(folder, like) or (0, like)
    assert step >= 4000
    np.testing.assert_array_equal(got["w"], step)
    checkpoint.save(folder, step + 1, like)


# --------------------------------------------------------------------------------------------- one writer at a time


def taken_by(folder: Path, process: int) -> str:
    return rf"folder: expected one that nobody else writes into, but process {process} on \S+ does into '{folder}'\."


def test_save_refuses_while_another_part_of_the_process_saves(tmp_path, monkeypatch):
    """Each would delete what the other has not yet given its name."""
    write, refused = files.write_json, []

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.undo()

        def other() -> None:
            with pytest.raises(ValueError, match=taken_by(tmp_path, os.getpid())):
                checkpoint.save(tmp_path, 2, SMALL)
            refused.append(1)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        write(*arguments)

    monkeypatch.setattr(files, "write_json", meanwhile)
    checkpoint.save(tmp_path, 1, SMALL)
    assert refused == [1]
    demand_whole(tmp_path, SMALL)
    checkpoint.save(tmp_path, 2, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]


HOLDING = """
import sys, time
from jaxprune import checkpoint
with checkpoint.Writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(900)
"""


def test_save_refuses_while_another_process_writes_and_not_once_it_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=taken_by(tmp_path, other.pid)):
            checkpoint.save(tmp_path, 1, SMALL)
        other.kill()
    assert checkpoint.save(tmp_path, 1, SMALL).name == "00000001"


def test_save_takes_a_folder_that_was_let_go_while_it_asked_who_has_it(tmp_path, monkeypatch):
    writer = checkpoint.Writer(tmp_path)
    holder = exclusive.holder

    def ending(path: Path) -> str:
        writer.__exit__()
        return holder(path)

    monkeypatch.setattr(exclusive, "holder", ending)
    assert checkpoint.save(tmp_path, 1, SMALL).name == "00000001"


def test_save_names_a_file_system_without_locks(tmp_path, monkeypatch):
    def without(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(ValueError, match="folder: expected a folder on a file system with locks and hard links"):
        checkpoint.save(tmp_path, 1, SMALL)


def damaged(folder: Path) -> None:
    """Two checkpoints, the newer one without its manifest."""
    checkpoint.save(folder, 1, SMALL)
    (checkpoint.save(folder, 2, SMALL) / "manifest.json").unlink()


def test_restore_leaves_a_damaged_checkpoint_to_whoever_writes(tmp_path):
    damaged(tmp_path)
    with checkpoint.Writer(tmp_path) as writer:
        with pytest.warns(UserWarning, match="00000002' is damaged .* It was left there, since somebody writes"):
            same(checkpoint.restore(tmp_path, SMALL), (1, SMALL))
        assert checkpoint.steps(tmp_path) == [1, 2]
        with pytest.warns(UserWarning, match=r"00000002' is damaged .* It was renamed to '\.damaged-00000002-"):
            same(writer.restore(SMALL), (1, SMALL))
        assert checkpoint.steps(tmp_path) == [1]


def test_restore_reads_where_it_must_not_write(tmp_path, monkeypatch):
    damaged(tmp_path)

    def forbidden(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(exclusive, "hold", forbidden)
    with pytest.warns(UserWarning, match="It was left there, since .* this process may not"):
        same(checkpoint.restore(tmp_path, SMALL), (1, SMALL))
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_restore_takes_the_newest_where_the_one_it_reads_is_deleted(tmp_path, monkeypatch):
    """A writer goes on while it reads: that is no damage, and no reason to warn."""
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"w": np.full(3, step)})
    load, reads = checkpoint.contents.load, []

    def slow(path: Path, like: Any, *named: Any) -> Any:
        reads.append(path.name)
        if len(reads) == 1:
            for step in (3, 4):
                checkpoint.save(tmp_path, step, {"w": np.full(3, step)})
        return load(path, like, *named)

    monkeypatch.setattr(checkpoint.contents, "load", slow)
    same(checkpoint.restore(tmp_path, {"w": np.zeros(3, int)}), (4, {"w": np.full(3, 4)}))
    assert reads == ["00000002", "00000004"]


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
import jaxprune as jp
from jaxprune import checkpoint, exclusive

assert jax.device_count() == 8
mesh = jp.mesh.make()
tree = {"w": jnp.arange(64, dtype=jnp.float32).reshape(16, 4), "b": jnp.ones((3,), jnp.bfloat16)}
sharded = jp.mesh.shard_leaves(mesh, tree)
checkpoint.save(sys.argv[1], 1, sharded)
for like in (sharded, jp.mesh.replicate(mesh, tree), tree, jp.mesh.shard_leaves(jp.mesh.make(jax.devices()[:2]), tree)):
    _, got = checkpoint.restore(sys.argv[1], jax.tree.map(jnp.zeros_like, like))
    for name, leaf in like.items():
        assert got[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim), (name, got[name].sharding, leaf.sharding)
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(tree[name]))
print("same")
"""


def test_restore_takes_over_the_shardings_of_the_target(tmp_path):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", SHARDED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.stdout == "same\n", done.stderr
    tree = {"w": np.zeros((16, 4), np.float32), "b": np.zeros(3, ml_dtypes.bfloat16)}
    _, got = checkpoint.restore(tmp_path, tree) or (0, tree)  # and on one device
    np.testing.assert_array_equal(got["w"], np.arange(64).reshape(16, 4))
