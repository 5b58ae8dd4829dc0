"""HTTP/1.1 on a socket, as little as the probe needs: requests, answers, and event streams as they arrive.

A library would hide when bytes arrive, and what a proxy makes of an answer while the request is still being sent.
"""

import os
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

HANG_SECONDS = 60


@dataclass
class Answer:
    status: int
    fields: dict
    body: bytes


class Connection:
    """One connection to the server of `url`, from the address `source` if there is one."""

    def __init__(self, url: str, source: str | None = None) -> None:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self.host = parts.hostname
        address = (source, 0) if source else None
        self.socket = socket.create_connection((parts.hostname, port), HANG_SECONDS, source_address=address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
            self.socket = context.wrap_socket(self.socket, server_hostname=parts.hostname)
        self.pending = b""

    def __enter__(self):
        return self

    def __exit__(self, *_fault):
        self.socket.close()

    def ask(self, method: str, url: str, fields: dict | None = None, body: bytes | None = None) -> None:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        fields = {"Host": self.host, **(fields or {})}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            self.socket.sendall(head.encode() + b"\r\n" + (body or b""))
        except OSError:
            pass  # The answer may have been sent before the whole body was read: it is read below.

    def more(self) -> bool:
        piece = self.socket.recv(65536)
        self.pending += piece
        return bool(piece)

    def until(self, end: bytes) -> bytes:
        while end not in self.pending:
            if not self.more():
                raise EOFError("the connection ended early")
        found, self.pending = self.pending.split(end, 1)
        return found

    def head(self) -> Answer:
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return Answer(int(lines[0].split(" ")[1]), fields, b"")

    def pieces(self, fields: dict):
        """The pieces of a body as they arrive. Raises EOFError if the body ends before its end."""
        if "chunked" in fields.get("transfer-encoding", ""):
            while size := int(self.until(b"\r\n").split(b";")[0], 16):
                while len(self.pending) < size + 2:
                    if not self.more():
                        raise EOFError("the connection ended inside a chunk")
                piece, self.pending = self.pending[:size], self.pending[size + 2 :]
                yield piece
        elif "content-length" in fields:
            left = int(fields["content-length"])
            while left:
                if not self.pending and not self.more():
                    raise EOFError("the connection ended inside a body")
                piece, self.pending = self.pending[:left], self.pending[left:]
                left -= len(piece)
                yield piece
        else:
            while self.pending or self.more():
                piece, self.pending = self.pending, b""
                yield piece


def request(method, url, fields=None, body=None, source=None) -> Answer:
    with Connection(url, source) as connection:
        connection.ask(method, url, fields, body)
        answer = connection.head()
        answer.body = b"".join(connection.pieces(answer.fields))
        return answer


class Stream:
    """An event stream. `opened` is the time at which the connection was begun."""

    def __init__(self, url: str, fields: dict | None = None, source: str | None = None) -> None:
        self.opened = time.monotonic()
        self.connection = Connection(url, source)
        self.connection.ask("GET", url, {"Accept": "text/event-stream", **(fields or {})})
        self.answer = self.connection.head()
        self.heartbeats = 0
        if self.answer.status != 200:
            self.answer.body = b"".join(self.connection.pieces(self.answer.fields))
        self._lines = self._read_lines()

    def __enter__(self):
        return self

    def __exit__(self, *_fault):
        self.connection.socket.close()

    def _read_lines(self):
        text = b""
        for piece in self.connection.pieces(self.answer.fields):
            text += piece
            while b"\n" in text:
                line, text = text.split(b"\n", 1)
                yield line.decode()

    def event(self) -> tuple:
        """The next event: its name and its data. Raises EOFError at the end of the stream."""
        name, data = "message", ""
        for line in self._lines:
            if line.startswith(":"):
                self.heartbeats += 1
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                return name, data
        raise EOFError("the stream has ended")
