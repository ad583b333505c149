import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from jaxprune import exclusive

# A plain module of the standard library: loaded alone, it starts in no time.
HOLDER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("exclusive", sys.argv[1])
exclusive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exclusive)
held = exclusive.hold(pathlib.Path(sys.argv[2]))
print("held" if held else "refused", flush=True)
sys.stdin.read()
"""


def other_process(path) -> subprocess.Popen:
    """A process that holds a file until it is killed, or its input ends."""
    words = [sys.executable, "-c", HOLDER, exclusive.__file__, str(path)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def left_by_another_host(path, lease=exclusive.LEASE, **changes):
    """A file as a process of another host holds it, whose lock is not seen here."""
    with exclusive.hold(path, lease=lease):
        content = {**json.loads(path.read_text()), "host": "elsewhere", **changes}
    path.write_text(json.dumps(content))


def age(path, seconds):
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def test_hold_refuses_everybody_else_until_it_is_released(tmp_path):
    path = tmp_path / "claim"
    with exclusive.hold(path) as held:
        assert exclusive.hold(path) is None
        with other_process(path) as process:
            assert process.communicate()[0] == "refused\n"
        assert path.exists()
    assert not path.exists()
    held.release()
    with other_process(path) as process:
        assert process.communicate()[0] == "held\n"


def test_hold_is_free_at_once_when_its_process_was_killed(tmp_path):
    path = tmp_path / "claim"
    with other_process(path) as process:
        assert process.stdout.readline() == "held\n"
        assert exclusive.hold(path) is None
        assert exclusive.holder(path) == f"process {process.pid} on {socket.gethostname()}"
        assert exclusive.is_held(path)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert path.exists()
    assert not exclusive.is_held(path)
    with exclusive.hold(path):
        assert exclusive.holder(path) == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.filterwarnings("ignore")  # of threads that a forked process lacks
def test_hold_is_not_that_of_a_forked_process(tmp_path):
    path = tmp_path / "claim"
    held = exclusive.hold(path)
    (reading, writing), (waiting, going) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(going)
        held.release()
        os.write(writing, b"r")
        os.read(waiting, 1)  # ends with the parent's end of the pipe
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"r"
        # It released nothing, and when the lock ends here it keeps none.
        assert path.exists()
        assert exclusive.hold(path) is None
        os.close(held._descriptor)
        held._descriptor = None
        again = exclusive.hold(path)
        assert again is not None
        again.release()
    finally:
        os.close(going)
        os.waitpid(child, 0)
        for descriptor in (reading, writing, waiting):
            os.close(descriptor)


def test_hold_takes_the_file_that_is_there_and_not_one_that_was_removed_after_it_was_opened(tmp_path, monkeypatch):
    path, lock, earlier = tmp_path / "claim", fcntl.flock, [exclusive.hold(tmp_path / "claim")]

    def flock(descriptor, how):
        if earlier:
            earlier.pop().release()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive.hold(path):
        assert path.exists()
        assert exclusive.hold(path) is None


def test_hold_of_another_host_lasts_for_the_lease_that_its_holder_promised(tmp_path):
    path = tmp_path / "claim"
    left_by_another_host(path, lease=300.0)
    age(path, 290)
    assert exclusive.hold(path) is None
    assert exclusive.is_held(path)
    assert exclusive.holder(path) == f"process {os.getpid()} on elsewhere"
    age(path, 20)
    assert not exclusive.is_held(path)
    with exclusive.hold(path):
        assert exclusive.holder(path) == f"process {os.getpid()} on {socket.gethostname()}"
    assert [*tmp_path.iterdir()] == []


def test_hold_of_another_machine_of_the_same_name_is_another_ones(tmp_path):
    path = tmp_path / "claim"
    left_by_another_host(path, host=socket.gethostname(), boot="another kernel")
    assert exclusive.hold(path) is None
    assert exclusive.is_held(path)


def test_hold_sees_other_hosts_as_they_see_this_one(tmp_path, monkeypatch):
    path = tmp_path / "claim"
    with exclusive.hold(path):
        content = path.read_text()
    path.write_text(content)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert exclusive.hold(path) is None


def test_hold_goes_on_where_another_host_removes_the_file_in_between(tmp_path, monkeypatch):
    path, age_of = tmp_path / "claim", exclusive.age
    left_by_another_host(path)

    def removed(where):
        path.unlink(missing_ok=True)
        return age_of(where)

    monkeypatch.setattr(exclusive, "age", removed)
    with exclusive.hold(path) as held:
        assert held is not None
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_hold_takes_what_was_not_signed(tmp_path, content):
    path = tmp_path / "claim"
    path.write_text(content)
    assert exclusive.holder(path) == "a process that has not said its name"
    assert not exclusive.is_held(path)
    with exclusive.hold(path):
        assert exclusive.is_held(path)


def test_hold_leaves_nothing_where_it_cannot_be_signed(tmp_path, monkeypatch):
    path, write = tmp_path / "claim", os.pwrite
    # A disk that fills up writes less, and refuses only after that.
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: write(descriptor, data[:10], place))
    with pytest.raises(OSError, match="No space left") as told:
        exclusive.hold(path)
    assert told.value.errno == errno.ENOSPC
    assert [*tmp_path.iterdir()] == []
    monkeypatch.undo()
    with exclusive.hold(path) as held:
        assert held


def test_release_leaves_what_another_host_took_in_the_meantime(tmp_path):
    path = tmp_path / "claim"
    held = exclusive.hold(path)
    theirs = json.dumps({"host": "elsewhere", "boot": "", "process": 1, "lease": 60.0})
    path.write_text(theirs)
    held.release()
    assert path.read_text() == theirs


def test_touch_keeps_a_file_young_while_it_is_held(tmp_path):
    path = tmp_path / "claim"
    with exclusive.hold(path, lease=0.04):
        for _ in range(2):
            os.utime(path, (0, 0))
            while path.stat().st_mtime == 0:  # for ever, where nobody touches it
                time.sleep(0.01)


def test_touch_leaves_what_is_closed_alone(tmp_path):
    # Its number may be that of another file.
    turns = iter([False, True])
    released = SimpleNamespace(wait=lambda every: next(turns))
    exclusive.Hold._touch(SimpleNamespace(_released=released, _guard=threading.Lock(), _descriptor=None), 0.0)
    assert not [*turns]


def test_wait_takes_a_file_as_soon_as_it_is_free(tmp_path):
    path, entered = tmp_path / "claim", threading.Event()

    def second() -> None:
        with exclusive.wait(path, every=0.01):
            entered.set()

    thread = threading.Thread(target=second)
    with exclusive.hold(path):
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(900)
    thread.join()


def test_is_held_is_by_the_lock_and_not_by_the_number_of_a_process(tmp_path):
    path = tmp_path / "claim"
    with exclusive.hold(path):
        content = path.read_text()
        age(path, exclusive.LEASE + 1)
        assert exclusive.is_held(path)  # stopped for a while, and alive
        assert exclusive.hold(path) is None
    path.write_text(content)  # this process lives, and does not hold it
    assert not exclusive.is_held(path)
    assert not exclusive.is_held(tmp_path / "nowhere")


def test_age_is_by_the_clock_of_the_files(tmp_path, monkeypatch):
    path = tmp_path / "claim"
    path.touch()
    age(path, 100)
    monkeypatch.setattr(exclusive.time, "time", lambda: 0.0)
    assert 100 <= exclusive.age(path) < 1000
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(("module", "name"), [(os, "link"), (fcntl, "flock")])
def test_demand_supported_names_a_file_system_without_links_or_locks(tmp_path, monkeypatch, module, name):
    exclusive.demand_supported("out", tmp_path)

    def lacking(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(module, name, lacking)
    message = rf"out: expected a folder on a file system with locks and hard links.*{re.escape(str(tmp_path))}.*NFS\."
    with pytest.raises(ValueError, match=message):
        exclusive.demand_supported("out", tmp_path)
    assert [*tmp_path.iterdir()] == []
