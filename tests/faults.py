"""An S3 endpoint that fails: an HTTP proxy on loopback in front of a real server, which spoils a seeded share of the requests."""

import http.client
import math
import random
import socket
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("error", "busy", "throttled", "dropped", "cut", "slow")  # all of them pass
LASTING = ("gone", "denied", "expired", "hung")
STATUS = {
    "error": (500, "InternalError"),
    "busy": (503, "ServiceUnavailable"),
    "throttled": (503, "SlowDown"),
    "gone": (404, "NoSuchKey"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
}


class Faults:
    """What is spoiled, which may be changed while the proxy runs, and what has been: `injected` counts by kind.

    share: of all requests; kinds: of faults, drawn evenly; where: only requests whose method and path, as `PUT /bucket/key`, contain this;
    left: no more faults than this; owed: so many requests are spoiled whatever the share.
    """

    def __init__(self, share: float = 0.0, kinds=KINDS, seed: int = 0, where: str = "", left: float = math.inf, owed: int = 0):
        self.share, self.kinds, self.where, self.left, self.owed = share, kinds, where, left, owed
        self.random, self.lock, self.injected, self.requests = random.Random(seed), threading.Lock(), Counter(), 0

    def draw(self, path: str) -> str | None:
        with self.lock:
            self.requests += 1
            if self.where not in path or self.left <= 0 or (self.random.random() >= self.share and not self.owed):
                return None
            self.left, self.owed = self.left - 1, max(self.owed - 1, 0)
            kind = self.random.choice(self.kinds)
            self.injected[kind] += 1
            return kind


@contextmanager
def proxy(server: str, faults: Faults):
    """The URL of an endpoint that passes everything on to `server` but for the faults."""
    goal = urlsplit(server).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and content go out apart: the second would wait 40 ms for the first to be acknowledged

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except OSError:  # the other side has gone
                self.close_connection = True

        def log_message(self, *arguments):
            pass

        def _pass(self):
            body = self._body()
            kind = faults.draw(f"{self.command} {self.path}")
            if kind in STATUS:
                return self._fail(*STATUS[kind])
            if kind == "hung":
                closing.wait(60)
            if kind in ("dropped", "hung"):
                return self._hang_up()
            connection = http.client.HTTPConnection(goal, timeout=60)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                return self._answer(answer, answer.read(), kind)
            finally:
                connection.close()

        def _body(self) -> bytes:
            if "100-continue" in self.headers.get("Expect", ""):
                del self.headers["Expect"]
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                del self.headers["Transfer-Encoding"]
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _fail(self, status: int, code: str):
            content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _hang_up(self):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _answer(self, answer, content: bytes, kind: str | None):
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)  # of nothing, for HEAD
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half])
            if kind == "slow":
                self.wfile.flush()
                closing.wait(0.3)
            if kind == "cut":
                self._hang_up()
            else:
                self.wfile.write(content[half:])

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    closing = threading.Event()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        closing.set()
        listening.shutdown()
        listening.server_close()
        thread.join(10)
