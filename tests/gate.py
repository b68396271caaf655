"""A network that asks before each pass, and the gate that answers: faults meet work in flight, however fast the machine is."""

import math
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import nn

from tests import tiny

ADDRESS = "GATE_ADDRESS"  # of the gate, in the environment of the processes it holds up; others pass
PATIENCE = 60  # seconds after which a pass begins though nobody answered


def build(**arguments) -> nn.Module:
    network = tiny.build(**arguments)
    network.register_forward_pre_hook(_asked)
    return network


def build_asking_in_its_first_layer(**arguments) -> nn.Module:
    """Asks in the passes of a cut network as well, which are its layers'; the other asks while it is loaded."""
    network = tiny.build(**arguments)
    network[0].register_forward_pre_hook(_asked)
    return network


def _asked(*_) -> None:
    if port := os.environ.get(ADDRESS):
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE) as line:
            line.sendall(f"{os.getpid()}\n".encode())
            line.recv(1)


class Gate:
    """Counts the passes that ask, and holds those beyond the `limit`."""

    def __init__(self):
        self.changed, self.begun, self.limit, self._held = threading.Condition(), 0, math.inf, []

    def admit(self, process: int) -> None:
        with self.changed:
            self.begun += 1
            turn = self.begun
            self._held.append(process)
            self.changed.notify_all()
            self.changed.wait_for(lambda: turn <= self.limit, PATIENCE)
            self._held.remove(process)

    def held(self, seconds: float) -> list[int]:
        """The processes that are being held up; waits so long for one."""
        with self.changed:
            self.changed.wait_for(lambda: self.begun > self.limit and self._held, seconds)
            return [process for process in self._held if self.begun > self.limit and os.path.exists(f"/proc/{process}")]

    def restart(self) -> None:
        with self.changed:
            self.begun = 0

    def open(self, limit: float = math.inf) -> None:
        """Let so many passes begin, those that have begun included."""
        with self.changed:
            self.limit = limit
            self.changed.notify_all()


@contextmanager
def gate() -> Iterator[Gate]:
    """A gate, which processes started meanwhile ask."""
    kept = Gate()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            with suppress(OSError):  # it may have been killed where it stood
                kept.admit(int(self.rfile.readline()))
                self.wfile.write(b".")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ[ADDRESS] = str(server.server_address[1])
        try:
            yield kept
        finally:
            del os.environ[ADDRESS]
            kept.open()
            server.shutdown()
