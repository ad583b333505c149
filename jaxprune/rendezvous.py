"""Who this process is, as its environment says; and who is there, asked over a plain socket before JAX connects.

JAX ends a process whose peers do not come within its time, and cannot say which of them are missing.  So all meet once
before, on the port that JAX takes afterwards: it is the one that every host can reach.
"""

import contextlib
import json
import os
import socket
import time

import numpy as np
from jax._src import clusters

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_GREETING = "jaxprune "
_PAUSE = 0.1  # seconds between two tries


def detected(limit: float) -> tuple[str, int, int] | None:
    """What the environment says of this process: address, count and index; None where it is the only one."""
    said = [os.environ.get(name) for name in _VARIABLES]
    if any(said):
        if not all(said) or not (said[1] or "").isdecimal() or not (said[2] or "").isdecimal():
            raise ValueError(
                f"{', '.join(_VARIABLES)}: expected an address and two whole numbers in the environment, or none of "
                f"them, but got {said}. Set all three, as scripts/launch does."
            )
        return str(said[0]), int(said[1] or 0), int(said[2] or 0)
    address, count, index, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(np.ceil(limit))
    )
    return None if address is None or count is None or index is None else (address, count, index)


def missing(address: str, count: int, index: int, limit: float) -> list[int]:
    """Waits until all processes have met, and says which did not come.

    Args:
      address: "host:port" of process 0.
      count: how many there are.
      index: which of them this is.
      limit: seconds.

    Returns:
      The processes that did not come within the limit; all that came get the same answer.  Where process 0 is not
      there, nobody else can be heard of.

    Raises:
      OSError: the port of process 0 is taken.

    >>> missing("localhost:0", 1, 0, 1.0)
    []
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + limit
    return _host(int(port), count, end) if index == 0 else _guest(host.strip("[]"), int(port), index, end)


def _host(port: int, count: int, end: float) -> list[int]:
    """Hears all who come, and tells them who did not."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port), backlog=count, reuse_port=False))
        guests: dict[int, socket.socket] = {}
        while len(guests) < count - 1 and (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                guest = stack.enter_context(server.accept()[0])
            except TimeoutError:
                break
            guest.settimeout(max(_PAUSE, min(5.0, left)))
            words = _line(guest)
            # Others knock at open ports too.
            if words.startswith(_GREETING) and words.removeprefix(_GREETING).isdecimal():
                guests[int(words.removeprefix(_GREETING))] = guest
        absent = sorted(set(range(1, count)) - set(guests))
        for guest in guests.values():
            with contextlib.suppress(OSError):  # it has gone, and will be missed next time
                guest.sendall(f"{json.dumps(absent)}\n".encode())
        return absent


def _guest(host: str, port: int, index: int, end: float) -> list[int]:
    """Goes to process 0, again and again, and hears who did not come."""
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError, ValueError), socket.create_connection((host, port), timeout=left) as server:
            server.sendall(f"{_GREETING}{index}\n".encode())
            # Process 0 may have begun to wait later than this one.
            server.settimeout(2 * (end - time.monotonic()) + 5)
            return list(json.loads(_line(server)))
        time.sleep(_PAUSE)
    return [0]


def _line(connection: socket.socket) -> str:
    """Reads a line, or nothing where none comes."""
    found = b""
    with contextlib.suppress(OSError):
        while not found.endswith(b"\n") and len(found) < 1 << 20:
            part = connection.recv(4096)
            if not part:
                break
            found += part
    return found.decode(errors="replace").strip()
