import dataclasses
import enum
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import jax
import numpy as np
import pytest

from jaxprune import files, records


class Colour(enum.StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    z: Any = 0


@dataclass(frozen=True)
class Other:
    z: Any = 0


@dataclass(frozen=True)
class Run:
    seed: Any
    score: Any = "magnitude"
    more: Any = ()


@dataclass(frozen=True)
class LaterRun:
    seed: Any
    score: Any = "snip"
    more: Any = ()


RUN = Run(seed=3, score="snip")
METRICS = {"accuracy": 0.75, "hits": "0111", "by_task": {"low": [1.0, 2.5]}}
NEAR = [
    *(0, 0.0, -0.0, False, 1, 1.0, True, np.True_, np.int64(1), np.float32(1), "1", "True", "", None, "None"),
    *(2**53, 2**53 + 1, float(2**53), 10**16, 1e16, 1e300, 10**300, int(1e300), -1, -1.0),
    *(0.1, np.float32(0.1), np.float64(0.1), float("inf"), float("-inf"), np.float32("inf"), "inf"),
    *(Path("1"), PurePosixPath("1"), Path("1/"), "red", Colour.RED, np.str_("red"), "\udcff"),
]


def drawn(source: random.Random, depth: int = 0) -> Any:
    """A value of a configuration; equal ones of unlike forms are frequent."""
    kind = source.randrange(10 if depth < 3 else 4)
    if kind < 4:
        return source.choice(NEAR)
    inner = [drawn(source, depth + 1) for _ in range(source.randrange(3))]
    if kind < 6:
        return inner if kind == 4 else tuple(inner)
    if kind < 8:
        names = source.sample(["a", "b", "1", ""], len(inner))
        return dict(zip(names, inner, strict=True))
    return source.choice([Inner, Other])(*inner[:1])


def as_python_compares(value: Any) -> Any:
    """The value in a form that Python can hash: equal forms are equal values, lists counting as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return tuple(map(as_python_compares, value))
    if isinstance(value, dict):
        return frozenset((name, as_python_compares(entry)) for name, entry in value.items())
    if dataclasses.is_dataclass(value):
        fields = {one.name: as_python_compares(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def test_key_is_equal_for_ten_thousand_configurations_if_and_only_if_they_are_equal():
    source = random.Random(0)
    pairs = set()
    for _ in range(10_000):
        run = source.choice([Run, LaterRun])(drawn(source), source.choice(NEAR[:6]))
        pairs.add((as_python_compares(run), records.key("transfer", run)))
    configs, keys = {config for config, _ in pairs}, {key for _, key in pairs}
    assert 1000 < len(configs) < 5000
    assert len(pairs) == len(configs) == len(keys)


def test_key_has_every_field_also_those_of_defaults_and_all_around_the_configuration():
    others = [
        *(Run(4, "snip"), Run(3), Run(3, "snip", more=[0]), LaterRun(3)),
        *(RUN, RUN, RUN),
    ]
    options = [{}, {}, {}, {}, {"version": 2}, {"data": "a"}, {"data": "b"}]
    keys = {records.key("transfer", run, **option) for run, option in zip(others, options, strict=True)}
    assert len({records.key("transfer", RUN), records.key("other", RUN), *keys}) == len(others) + 2
    assert records.key("transfer", RUN, version=1, data="") == records.key("transfer", Run(3, "snip", []))

    @dataclass(frozen=True)
    class Before:
        rate: float = 0.1

    old = records.key("transfer", Before())
    Before.__init__.__defaults__ = (0.2,)
    assert records.key("transfer", Before()) != old


def test_key_never_changes_between_versions():
    assert records.key("transfer", RUN, version=2, data="abc") == "b92dfd7047f3dff6"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros(2), TypeError, r"config\.more: expected None, text, .* but got ndarray\. Give what"),
        ([{1, 2}], TypeError, r"config\.more\[0\]: .* but got set\."),
        ({"a": Inner(print)}, TypeError, r"config\.more\['a'\]\.z: .* but got builtin_function_or_method"),
        (Inner, TypeError, r"config\.more: .* but got type"),
        (1j, TypeError, r"config\.more: .* but got complex"),
        (np.complex64(1), TypeError, r"config\.more: .* but got complex"),
        (np.datetime64("2020-01-01"), TypeError, r"config\.more: .* but got date"),
        (b"1", TypeError, r"config\.more: .* but got bytes"),
        (PureWindowsPath("a"), TypeError, r"config\.more: .* but got PureWindowsPath"),
        ({1: 0}, TypeError, r"config\.more: expected text that does not begin with @ for keys, but got 1"),
        (
            {"@path": "a"},
            TypeError,
            r"config\.more: expected text that does not begin with @ for keys, but got '@path'",
        ),
        ((0, float("nan")), ValueError, r"config\.more\[1\]: expected a number, and NaN equals none, but got nan"),
        (np.float32("nan"), ValueError, r"config\.more: expected a number"),
        (10**4000, ValueError, r"config\.more: expected a whole number of 10000 bits at most"),
    ],
)
def test_plain_refuses_what_has_no_equal_by_the_name_of_its_field(value, error, message):
    with pytest.raises(error, match=message):
        records.plain(Run(0, more=value))


@pytest.mark.parametrize("config", [{"seed": 3}, 3, Run])
def test_plain_refuses_what_is_no_dataclass(config):
    with pytest.raises(TypeError, match=r"config: expected a dataclass, but got .* Write @dataclass"):
        records.plain(config)


def test_plain_is_the_same_after_it_was_written_and_read():
    run = Run(np.int64(3), Path("a/b"), (float("-inf"), 0.1, 2**70, None, True, {"x": Inner([Colour.RED])}))
    tree = records.plain(run)
    assert tree == {
        "@type": "Run",
        "seed": 3,
        "score": {"@path": "a/b"},
        "more": [{"@float": "-inf"}, 0.1, 2**70, None, True, {"x": {"@type": "Inner", "z": ["red"]}}],
    }
    assert type(tree["more"][-1]["x"]["z"][0]) is str
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree


def made(run: Any = RUN, metrics: Any = METRICS, **changes: Any) -> dict[str, Any]:
    options = {"study": "transfer", "version": 1, "data": "", "provenance": {"seconds": 1.0}, **changes}
    return records.make(config=run, metrics=metrics, **options)


def test_make_hashes_configuration_and_metrics_in_the_digest_and_everything_in_sha256():
    variants = [
        made(),
        made(provenance={"seconds": 2.0}),
        made(data="b"),
        made(metrics={**METRICS, "accuracy": 0.5}),
        made(Run(4, "snip")),
    ]
    digests = [record["digest"] for record in variants]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3
    assert len({record["sha256"] for record in variants}) == len(variants)
    assert digests[0] == records.digest({"config": records.plain(RUN), "metrics": METRICS})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan"), np.float32("inf")])
def test_make_refuses_what_is_not_finite_by_name(bad):
    with pytest.raises(ValueError, match=r"metrics\['by'\]\[1\]: expected a finite number, but got (nan|inf)"):
        made(metrics={"loss": 1.0, "by": [0, bad]})
    with pytest.raises(ValueError, match=r"provenance\['x'\]: expected a finite number"):
        made(provenance={"x": bad})


def test_make_takes_numbers_of_numpy_as_those_of_python():
    assert made(metrics={"a": np.float32(0.5), "b": (np.int32(1),)})["metrics"] == {"a": 0.5, "b": [1]}


def test_load_reads_what_was_written_under_its_own_name_only(tmp_path):
    path = tmp_path / f"{records.key('transfer', RUN)}.json"
    files.write_json(path, made())
    assert records.load(path) == made()
    other = tmp_path / f"{records.key('transfer', Run(4))}.json"
    path.rename(other)
    with pytest.raises(records.DamagedError, match="it is of another run"):
        records.load(other)


# Each of them has hashes that fit, but for the one that it is about.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["provenance"].update(seconds=2.0), "sha256"),
        (lambda record: record.pop("sha256"), "sha256"),
        (lambda record: rehashed(record["metrics"].update(accuracy=0.5), record), "digest"),
        (lambda record: rehashed(record.update(version=2), record), "another run"),
        (lambda record: rehashed(record.update(data="b"), record), "another run"),
        (lambda record: rehashed(record.update(schema=1), record), "another run"),
        (lambda record: rehashed(record.pop("study"), record), "study"),
    ],
)
def test_load_sees_every_change(tmp_path, change, message):
    path, record = tmp_path / f"{records.key('transfer', RUN)}.json", made()
    change(record)
    files.write_json(path, record)
    with pytest.raises(records.DamagedError, match=message):
        records.load(path)


def rehashed(_: Any, record: dict[str, Any]) -> None:
    record["sha256"] = records.digest({name: value for name, value in record.items() if name != "sha256"})


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "{", "[" * 100_000, "\0" * 9, '{"sha256": NaN}'])
def test_load_calls_what_is_no_record_damaged(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(records.DamagedError):
        records.load(tmp_path / "a.json")
    assert not records.is_whole(tmp_path / "a.json")


def test_load_calls_a_folder_and_bytes_that_are_no_text_damaged(tmp_path):
    (tmp_path / "a.json").mkdir()
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    for name in ("a.json", "b.json"):
        with pytest.raises(records.DamagedError):
            records.load(tmp_path / name)


def test_is_whole_is_true_of_records_of_the_first_schema(tmp_path):
    body = {"config": {"seed": 3}, "metrics": METRICS}
    files.write_json(tmp_path / "a.json", {**body, "digest": records.digest(body), "provenance": {}})
    files.write_json(tmp_path / "b.json", {**body, "digest": "0", "provenance": {}})
    assert records.is_whole(tmp_path / "a.json")
    assert not records.is_whole(tmp_path / "b.json")
    assert not records.is_whole(tmp_path / "c.json")


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


@pytest.mark.parametrize("over", [True, False])
def test_write_replaces_a_file_or_leaves_it(tmp_path, over):
    path = tmp_path / "file"
    files.write(path, "first", over=over)
    if over:
        files.write(path, "second")
    else:
        with pytest.raises(FileExistsError):
            files.write(path, "second", over=False)
    assert path.read_text() == ("second" if over else "first")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_identity_tells_a_file_from_the_next_of_its_name(tmp_path):
    path = tmp_path / "file"
    assert files.identity(path) is None
    files.write(path, "a")
    first = files.identity(path)
    assert files.identity(path) == first
    files.write(path, "a")
    assert files.identity(path) != first


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
    assert made["host"] == socket.gethostname()
    assert made["process"] == os.getpid()
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
