import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from jaxprune import files, records
from jaxprune.records import Store


@dataclass(frozen=True)
class Run:
    seed: int
    score: str = "magnitude"
    rounds: int = 1
    shifts: tuple[str, ...] = ("noise",)


@dataclass(frozen=True)
class LaterRun(Run):
    warmup: int = 0
    names: list[str] = dataclasses.field(default_factory=list)


RUN = Run(seed=3, score="snip")
METRICS = {"accuracy": 0.75, "hits": "0111", "by_task": {"low": [1.0, 2.5]}}


def test_key_is_a_function_of_study_and_changed_fields():
    assert records.changed(RUN) == {"seed": 3, "score": "snip"}
    assert records.key("transfer", RUN) == records.key("transfer", Run(seed=3, score="snip", rounds=1))
    others = [
        Run(seed=4, score="snip"),
        Run(seed=3),
        dataclasses.replace(RUN, shifts=()),
        dataclasses.replace(RUN, rounds=2),
    ]
    keys = {records.key("transfer", run) for run in (RUN, *others)} | {records.key("other", RUN)}
    assert len(keys) == len(others) + 2


def test_key_stays_the_old_one_with_a_new_field_of_a_default():
    assert records.key("transfer", LaterRun(seed=3, score="snip")) == records.key("transfer", RUN)
    assert records.key("transfer", LaterRun(seed=3, score="snip", warmup=1)) != records.key("transfer", RUN)


def test_key_never_changes_between_versions():
    assert records.key("transfer", RUN) == "7ef894fb79d6f238"


def test_store_gives_a_record_back_as_it_was_written(tmp_path):
    store = Store(tmp_path / "deep" / "records", "transfer")
    assert not store.has(RUN)
    store.write(RUN, METRICS, {"seconds": 1.5})
    assert store.has(RUN)
    assert not store.has(Run(seed=4))
    record = store.read(RUN)
    assert record["config"] == {"seed": 3, "score": "snip", "rounds": 1, "shifts": ["noise"]}
    assert record["metrics"] == METRICS
    assert record["provenance"] == {"seconds": 1.5}
    assert [path.name for path in store.folder.iterdir()] == [f"{records.key('transfer', RUN)}.json"]


def test_digest_covers_configuration_and_metrics_and_nothing_else(tmp_path):
    digests = []
    for number, (run, metrics, seconds) in enumerate(
        [
            (RUN, METRICS, 1.0),
            (RUN, METRICS, 2.0),
            (RUN, {**METRICS, "accuracy": 0.5}, 1.0),
            (Run(seed=4), METRICS, 1.0),
        ]
    ):
        store = Store(tmp_path / str(number), "transfer")
        store.write(run, metrics, {"seconds": seconds})
        digests.append(store.read(run)["digest"])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("0.75", "0.76"),
        lambda text: text.replace('"snip"', '"snap"'),
        lambda text: text.replace('"digest"', '"digger"'),
    ],
)
def test_store_names_a_damaged_record_with_a_remedy(tmp_path, damage):
    store = Store(tmp_path, "transfer")
    store.write(RUN, METRICS, {})
    path = store.path(RUN)
    path.write_text(damage(path.read_text()))
    with pytest.raises(
        ValueError, match=rf"record: '{path}' is damaged \(.+\)\. Delete it; running again makes it anew"
    ):
        store.read(RUN)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_store_refuses_a_metric_that_is_not_finite_by_name_and_leaves_no_file(tmp_path, bad):
    store = Store(tmp_path, "transfer")
    with pytest.raises(ValueError, match="accuracy"):
        store.write(RUN, {"loss": 1.0, "accuracy": bad}, {})
    assert list(tmp_path.iterdir()) == []


def test_store_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"folder: cannot write in '.*file/records' \(Not a directory\). Choose a folder"
    ):
        Store(tmp_path / "file" / "records", "transfer")


# Plain modules of the standard library: loaded alone, they start in no time.
WRITER = """
import importlib.util, itertools, pathlib, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
path = pathlib.Path(sys.argv[2])
for turn in itertools.count():
    files.write(path, "ab"[turn % 2] * 3_000_000)
    print(turn, flush=True)
"""


def test_write_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("a" * 3_000_000)
    for delay in np.random.default_rng(0).uniform(0.0, 0.05, size=5):
        words = [sys.executable, "-c", WRITER, files.__file__, str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        text = path.read_text()
        assert text in ("a" * 3_000_000, "b" * 3_000_000)
    strays = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert all(name.startswith(".tmp-") for name in strays)


def test_write_json_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.json"
    files.write_json(path, {"b": 1, "a": 2})
    before = path.read_bytes()
    assert json.loads(before) == {"a": 2, "b": 1}
    for bad in (float("nan"), float("-inf")):
        with pytest.raises(ValueError, match="which JSON has"):
            files.write_json(path, {"a": bad})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


LOCK = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_locked_excludes_other_processes_and_ends_with_its_block(tmp_path):
    path = tmp_path / "lock"

    def attempt() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", LOCK, str(path)], capture_output=True, text=True, check=False)

    with files.locked(path):
        refused = attempt()
        assert refused.returncode == 1
        assert "BlockingIOError" in refused.stderr
    assert attempt().returncode == 0


def test_locked_lets_a_second_holder_wait_for_the_first(tmp_path):
    entered = threading.Event()

    def second() -> None:
        with files.locked(tmp_path / "lock"):
            entered.set()

    thread = threading.Thread(target=second)
    with files.locked(tmp_path / "lock"):
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(900)
    thread.join()


def test_locked_is_released_when_its_block_raises(tmp_path):
    with pytest.raises(KeyError), files.locked(tmp_path / "lock"):
        raise KeyError
    words = [sys.executable, "-c", LOCK, str(tmp_path / "lock")]
    assert subprocess.run(words, check=False).returncode == 0


def test_fingerprint_sees_bytes_shape_type_and_order():
    ones = np.ones((2, 3), np.float32)
    variants = [
        (ones,),
        (ones.reshape(3, 2),),
        (ones.astype(np.float64),),
        (ones * 2,),
        (ones, np.zeros(1)),
        (np.zeros(1), ones),
    ]
    assert len({records.fingerprint(*arrays) for arrays in variants}) == len(variants)
    assert records.fingerprint(ones[::-1], ones.T) == records.fingerprint(ones, np.ones((3, 2), np.float32))
    assert records.fingerprint(np.arange(4, dtype=np.int32)) == "b71b2cdb7954a600"


def test_provenance_says_what_is_needed_to_do_it_again():
    made = records.provenance("data-hash", 1.23456)
    assert made["data"] == "data-hash"
    assert made["seconds"] == 1.235
    assert made["packages"]["jax"] == jax.__version__
    assert made["packages"]["numpy"] == np.__version__
    assert len(made["devices"]) == jax.device_count()
    assert made["devices"][0].startswith(jax.default_backend())
    assert made["python"] == ".".join(map(str, sys.version_info[:3]))
    assert made["commit"] == "unknown" or len(made["commit"].rstrip("+")) == 40
    json.dumps(made, allow_nan=False)


def git(folder, *words: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, env=plain, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder, *files: str) -> str:
    """A repository with these files, and its commit."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    git(folder, "init", "-q")
    git(folder, "add", *files)
    git(folder, "commit", "-q", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


def test_provenance_has_the_commit_of_our_code_and_never_of_a_repository_around_it(tmp_path, monkeypatch):
    checkout, project = tmp_path / "checkout", tmp_path / "project"
    ours = repository(checkout, "jaxprune/records.py", "README.md")
    theirs = repository(project, "study.py", "jaxprune/other.py", "vendored/jaxprune/records.py")
    assert records._commit(checkout / "jaxprune") == ours
    installed = project / ".venv/lib/site-packages/jaxprune"
    # Below the root, at it but no file of the repository, and one of its files, but below the root.
    for folder in (installed, project / "jaxprune", project / "vendored/jaxprune"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "records.py").write_text("")
        assert records._commit(folder) == "unknown"
    # As while a hook of another repository runs.
    monkeypatch.setenv("GIT_DIR", str(project / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(project))
    records._commit.cache_clear()
    assert records._commit(checkout / "jaxprune") == ours != theirs
    (checkout / "README.md").write_text("changed")
    records._commit.cache_clear()
    assert records._commit(checkout / "jaxprune") == ours + "+"
    records._commit.cache_clear()


def test_provenance_outside_a_checkout_says_unknown(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    records._commit.cache_clear()
    assert records.provenance("", 0.0)["commit"] == "unknown"
    records._commit.cache_clear()
