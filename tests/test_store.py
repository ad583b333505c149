import dataclasses
import errno
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxprune import exclusive, files, records
from jaxprune.store import Store


@dataclass(frozen=True)
class Run:
    seed: float
    score: str = "magnitude"
    shifts: tuple[str, ...] = ("noise",)


RUN, OTHER = Run(3, "snip"), Run(4)
METRICS = {"accuracy": 0.75, "hits": "0111"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "deep" / "out", "transfer")


def names(store: Store) -> list[str]:
    """The files of a study, but for study.json."""
    found = [path for path in store.folder.rglob("*") if path.is_file() and path.name != "study.json"]
    return sorted(str(path.relative_to(store.folder)) for path in found)


def place(store: Store, folder: str, run: Run = RUN) -> Path:
    return store.folder / folder / store.path(run).name


def claim_of(store: Store, run: Run = RUN) -> Path:
    return store.folder / "claims" / store.key(run)


def left(store: Store, run: Run = RUN) -> list[Path]:
    """What a killed process leaves: its claim, and a file that is half written."""
    paths = [
        claim_of(store, run),
        *(store.folder / part / f".tmp-{store.key(run)}-ab" for part in ("records", "failed")),
    ]
    with exclusive.hold(paths[0]):
        content = paths[0].read_text()
    for path in paths:
        path.write_text(content)
    return paths


def test_store_gives_a_record_back_as_it_was_written(store):
    assert not store.has(RUN)
    with pytest.raises(KeyError, match=r"none of Run\(seed=3, score='snip'.*Do the run first"):
        store.read(RUN)
    assert store.write(RUN, METRICS, {"seconds": 1.5})
    assert store.has(RUN)
    assert store.missing([OTHER, RUN, Run(5)]) == [OTHER, Run(5)]
    record = store.read(RUN)
    assert record["config"] == {"@type": "Run", "seed": 3, "score": "snip", "shifts": ["noise"]}
    assert record["metrics"] == METRICS
    assert record["provenance"] == {"seconds": 1.5}
    assert names(store) == [f"records/{records.key('transfer', RUN)}.json"]
    assert store.path(RUN) == place(store, "records")


def test_store_is_one_queue_for_all_who_open_it(store):
    store.write(RUN, METRICS, {})
    again = Store(store.folder, "transfer")
    assert again.read(RUN) == store.read(RUN)
    # Equal configurations are one run, in whatever form.
    assert again.has(Run(3.0, "snip", ["noise"]))
    for other in (
        Store(store.folder, "transfer", version=2),
        Store(store.folder, "transfer", data="digits"),
    ):
        assert not other.has(RUN)
        assert other.write(RUN, METRICS, {})
        assert other.has(RUN)


def test_write_never_replaces_a_record(store):
    assert store.write(RUN, METRICS, {"host": "first"})
    before = store.path(RUN).read_bytes()
    assert not store.write(RUN, {"accuracy": 0.0}, {"host": "second"})
    assert store.path(RUN).read_bytes() == before
    assert len(names(store)) == 1


def test_write_replaces_a_damaged_record(store):
    store.path(RUN).write_text("{")
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.write(RUN, METRICS, {})
    assert store.read(RUN)["metrics"] == METRICS
    assert [name.split("/")[0] for name in names(store)] == ["damaged", "records"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_write_leaves_nothing_where_the_disk_is_full_and_goes_on_when_it_is_not(store, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, store.claim(RUN):
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            store.write(RUN, METRICS, {})
    assert names(store) == []
    assert store.write(RUN, METRICS, {})
    assert store.has(RUN)


def test_write_refuses_a_metric_that_is_not_finite_and_leaves_no_file(store):
    with pytest.raises(ValueError, match=r"metrics\['accuracy'\]: expected a finite number"):
        store.write(RUN, {"loss": 1.0, "accuracy": float("nan")}, {})
    assert names(store) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: text.replace("0.75", "0.76"),
        lambda text: text.replace('"snip"', '"snap"'),
        lambda text: text.replace('"first"', '"other"'),
    ],
)
def test_has_puts_a_damaged_record_aside_with_one_warning(store, damage, recwarn):
    store.write(RUN, METRICS, {"host": "first"})
    store.path(RUN).write_text(damage(store.path(RUN).read_text()))
    with pytest.raises(ValueError, match=rf"record: '{store.path(RUN)}' is damaged: .*Run again: it is put aside"):
        store.read(RUN)
    assert store.missing([RUN]) == store.missing([RUN]) == [RUN]
    (warning,) = recwarn.list
    assert re.search(r"The record '.*' is damaged: .*moved to '.*/damaged/.*its run counts as", str(warning.message))
    assert [name.split("/")[0] for name in names(store)] == ["damaged"]
    assert store.write(RUN, METRICS, {})
    assert store.has(RUN)


@pytest.mark.parametrize("options", [{}, {"version": 2}, {"data": "digits"}])
def test_has_puts_a_record_of_another_run_aside(store, options):
    other = Store(store.folder, "transfer", **options)
    other.write(OTHER if not options else RUN, METRICS, {})
    other.path(OTHER if not options else RUN).rename(store.path(RUN))
    with pytest.warns(UserWarning, match="it is of another run"):
        assert not store.has(RUN)


def test_has_puts_a_folder_in_the_place_of_a_record_aside(store):
    store.path(RUN).mkdir()
    with pytest.warns(UserWarning, match="is damaged"):
        assert not store.has(RUN)
    assert store.write(RUN, METRICS, {})


def test_has_leaves_the_record_that_another_process_put_in_the_place_of_a_damaged_one(store, monkeypatch):
    store.path(RUN).write_text("{")
    before = files.identity(store.path(RUN))
    store.path(RUN).unlink()
    store.write(RUN, METRICS, {})

    def load(path):
        monkeypatch.undo()
        raise records.DamagedError("it was", before)

    monkeypatch.setattr(records, "load", load)
    assert store.has(RUN)
    assert names(store) == [f"records/{store.key(RUN)}.json"]


def test_claim_is_of_one_at_a_time_and_of_none_when_the_run_is_done(store):
    with store.claim(RUN):
        assert store.claim(RUN) is None
        assert Store(store.folder, "transfer").claim(RUN) is None
        with store.claim(OTHER):
            pass
        assert (store.state(RUN), store.state(OTHER)) == ("running", "waiting")
        assert store.holder(RUN) == f"process {os.getpid()} on {socket.gethostname()}"
        assert store.holder(OTHER) == "nobody"
    with store.claim(RUN):
        store.write(RUN, METRICS, {})
    assert store.claim(RUN) is None
    assert store.state(RUN) == "done"
    assert names(store) == [f"records/{store.key(RUN)}.json"]


def test_claim_looks_again_when_it_has_the_run(store, monkeypatch):
    hold = exclusive.hold

    def late(path, **options):
        store.write(RUN, METRICS, {})  # by the one who held it until now
        return hold(path, **options)

    monkeypatch.setattr(exclusive, "hold", late)
    assert store.claim(RUN) is None
    assert names(store) == [f"records/{store.key(RUN)}.json"]


def test_claim_is_released_where_looking_again_fails(store, monkeypatch):
    left(store)

    def failing(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_clean", failing)
    with pytest.raises(KeyboardInterrupt):
        store.claim(RUN)
    assert not claim_of(store).exists()


def test_claim_takes_a_run_that_a_damaged_record_stands_for(store):
    store.path(RUN).write_text("{")
    with pytest.warns(UserWarning, match="is damaged"), store.claim(RUN) as claim:
        assert claim


def test_claim_removes_what_its_dead_holder_left_and_nothing_of_others(store):
    paths, others = left(store), left(store, OTHER)
    with store.claim(RUN):
        assert [path.exists() for path in paths] == [True, False, False]
    assert not paths[0].exists()
    assert all(path.exists() for path in others)


def test_claim_of_another_host_is_left_for_its_lease(tmp_path, monkeypatch):
    store = Store(tmp_path, "transfer", lease=30.0)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        path, *_ = left(store)
        with store.claim(OTHER) as claim:
            content = claim.path.read_text()
    path.write_text(content)
    assert store.claim(RUN) is None
    assert store.state(RUN) == "running"
    assert store.holder(RUN) == f"process {os.getpid()} on elsewhere"
    assert store.sweep() == 0
    now = path.stat().st_mtime
    os.utime(path, (now - 31, now - 31))
    assert store.state(RUN) == "waiting"
    with store.claim(RUN):
        assert store.state(RUN) == "running"


def test_fail_keeps_why_and_the_run_is_not_claimed_before_it_is_forgotten(store):
    try:
        raise ZeroDivisionError("of the rate")
    except ZeroDivisionError as error:
        store.fail(RUN, error, seconds=1.23456)
    assert store.state(RUN) == "failed"
    assert store.claim(RUN) is None
    assert store.missing([RUN]) == [RUN]
    ((run, failure),) = store.failures([OTHER, RUN])
    assert run == RUN
    assert failure["config"] == records.plain(RUN)
    assert failure["error"] == "ZeroDivisionError: of the rate"
    assert "test_fail_keeps_why" in failure["traceback"]
    assert (failure["host"], failure["process"], failure["seconds"]) == (socket.gethostname(), os.getpid(), 1.235)
    assert store.forget([OTHER, RUN]) == 1
    assert store.state(RUN) == "waiting"
    assert store.failures([RUN]) == []
    with store.claim(RUN):
        store.fail(RUN, ValueError("again"))
        assert store.write(RUN, METRICS, {})
    assert store.failures([RUN]) == []
    assert names(store) == [f"records/{store.key(RUN)}.json"]


def test_failures_say_so_where_a_description_is_damaged(store):
    store.fail(RUN, ValueError("a"))
    place(store, "failed").write_text("[")
    ((_, failure),) = store.failures([RUN])
    assert re.search(r"its description '.*' cannot be read", failure["error"])


def test_strangers_are_the_whole_records_of_other_runs(store):
    for run in (RUN, OTHER):
        store.write(run, METRICS, {})
    Store(store.folder, "transfer", version=2).write(RUN, METRICS, {})
    Store(store.folder, "transfer", data="b").write(RUN, METRICS, {})
    body = {"config": dataclasses.asdict(RUN), "metrics": METRICS}
    files.write_json(
        place(store, "records").with_name("7ef894fb79d6f238.json"), {**body, "digest": records.digest(body)}
    )
    store.path(Run(5)).write_text("{")
    store.path(Run(6)).with_name(".tmp-a.json").write_text("{}")
    assert store.strangers([RUN, OTHER]) == 3
    assert store.strangers([RUN]) == 4
    assert len(names(store)) == 7


def test_sweep_removes_what_the_dead_have_left_and_nothing_of_the_living(store):
    kept = left(store, OTHER)
    held = exclusive.hold(kept[0])
    assert held
    with held:
        left(store, RUN)
        left(store, Run(5))[0].unlink()
        assert store.sweep() == 3 + 2
        assert names(store) == sorted(str(path.relative_to(store.folder)) for path in kept)
    # Its claim is gone with its holder.
    assert store.sweep() == 2
    assert names(store) == []


def test_sweep_removes_unfinished_files_of_no_run_when_they_are_old(store):
    paths = [store.folder / ".tmp-study-a", store.folder / "claims" / ".tmp-b", store.folder / "failed" / ".tmp-c"]
    for path in paths:
        path.write_text("")
    assert store.sweep() == 0
    for path in paths:
        os.utime(path, (path.stat().st_mtime - 61,) * 2)
    assert store.sweep() == 3
    assert names(store) == []


@pytest.mark.parametrize("folder", ["gs://bucket/x", "s3://b", Path("gs://bucket/x"), "memory:/x"])
def test_store_refuses_buckets_and_says_why(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"out: expected a folder on a local disk or on NFS, but got .* a bucket has neither"
    ):
        Store(folder, "transfer")
    assert [*tmp_path.iterdir()] == []


def test_store_refuses_the_folder_of_another_study(store):
    store.write(RUN, METRICS, {})
    with pytest.raises(ValueError, match=r"one of the study 'landscape', but '.*' is of the study 'transfer'. Choose"):
        Store(store.folder, "landscape")
    assert json.loads((store.folder / "study.json").read_text()) == {"study": "transfer"}


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_store_refuses_a_folder_that_does_not_say_whose_it_is(store, content):
    (store.folder / "study.json").write_text(content)
    with pytest.raises(ValueError, match=r"out: '.*study.json', which says whose folder it is, is damaged"):
        Store(store.folder, "transfer")


@pytest.mark.parametrize("study", ["transfer", "landscape"])
def test_store_of_two_processes_that_begin_at_once_is_of_the_first(store, monkeypatch, study):
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name != "study.json" and exists(path))
    if study == "transfer":
        assert Store(store.folder, study).study == study
    else:
        with pytest.raises(ValueError, match="is of the study 'transfer'"):
            Store(store.folder, study)


def test_store_names_a_folder_that_cannot_be_written_or_has_no_locks(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out: cannot write in '.*file/out' \(Not a directory\). Choose a folder"):
        Store(tmp_path / "file" / "out", "transfer")

    def lacking(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", lacking)
    with pytest.raises(ValueError, match="out: expected a folder on a file system with locks and hard links"):
        Store(tmp_path / "out", "transfer")


@pytest.mark.parametrize(("options", "message"), [({"version": 0}, "version"), ({"lease": 0.0}, "lease")])
def test_store_refuses_options_by_name(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Store(tmp_path, "transfer", **options)


def test_store_starts_without_devices(tmp_path):
    # Workers are forked, and JAX does not survive that once it has begun.
    script = (
        "import sys; from jaxprune.store import Store; from jax._src import xla_bridge; Store(sys.argv[1], 'a'); "
        "sys.exit(xla_bridge.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0
