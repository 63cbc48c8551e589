"""The sockets: they pass requests to the Hub and send its answers, complete or not."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from hub_server.answers import Answer
from hub_server.faults import DRIPS, Fault, changed
from hub_server.requests import Request

if TYPE_CHECKING:
    from hub_server.server import Hub


class Server(ThreadingHTTPServer):
    """The listening socket, and the connections that came through it."""

    daemon_threads = True
    request_queue_size = 128  # or a burst of connections waits a second for its second try

    def __init__(self, port: int, hub: Hub):
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub = hub
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and break all connections."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in list(self.connections):
            _shut_down(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closed its connection; show any other error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        """Answer a request."""
        hub = self.server.hub
        request = hub.begin(self.command, self.path, dict(self.headers.items()))
        try:
            fault = hub.strike(request)
            answer = hub.answer(request)
            if fault is not None:
                answer = changed(answer, fault)
            wait = hub.latency + (fault.seconds if fault and fault.kind == "latency" else 0.0)
            if wait and self.server.closing.wait(wait):
                self.close_connection = True
                return
            self._send(request, answer, fault.kind if fault else "", fault)
        finally:
            request.ended = time.monotonic()

    do_HEAD = do_GET  # noqa: N815 - the name that the library looks for

    def _send(self, request: Request, answer: Answer, kind: str, fault: Fault | None) -> None:
        head, body = self._encode(answer)
        if self.command == "HEAD":
            body = b""
        if kind == "reset":
            # Lingering for no time at all makes the kernel send a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if kind in DRIPS:
            self.close_connection = True
            self._drip(kind)
            return
        whole = head + body
        if kind in ("truncate", "stall-body"):
            whole = whole[: len(head) + len(body) // 2] if body else head[: len(head) // 2]
        if kind != "stall":
            self._send_at_bandwidth(whole)
        if kind in ("stall", "stall-body"):
            assert fault is not None
            self._wait_for_client(fault.seconds)
        if kind in ("truncate", "stall", "stall-body"):
            self.close_connection = True
            _shut_down(self.connection)
        else:
            request.status = answer.status

    def _drip(self, kind: str) -> None:
        """Send what never ends, ten pieces a second, until the client or the Hub closes."""
        start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
        first, piece = {
            "drip-head": (start + b"X-More: ", b"a"),
            "drip-body": (chunked, b"1\r\n \r\n"),
            "drip-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            "drip-trailers": (chunked + b"1\r\n \r\n0\r\nX-More: ", b"a"),
        }[kind]
        self.connection.sendall(first)
        while not self.server.closing.wait(0.1):
            self.connection.sendall(piece)

    def _send_at_bandwidth(self, content: bytes) -> None:
        bandwidth = self.server.hub.bandwidth
        if not bandwidth:
            # In one piece: a header of its own would wait for the client's acknowledgement.
            self.connection.sendall(content)
            return
        piece = max(1, bandwidth // 100)
        for start in range(0, len(content), piece):
            self.connection.sendall(content[start : start + piece])
            self.server.closing.wait(0.01)

    def _encode(self, answer: Answer) -> tuple[bytes, bytes]:
        phrase = self.responses.get(answer.status, ("",))[0]
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), answer.body

    def _wait_for_client(self, seconds: float) -> None:
        """Wait until the client has had enough and closes, or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.server.closing.is_set():
            if select.select([self.connection], [], [], 0.02)[0]:
                return

    def log_message(self, *args: object) -> None:
        """Say nothing: `Hub.requests` is the log."""
