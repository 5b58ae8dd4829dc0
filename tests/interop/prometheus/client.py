"""A client of MCP over HTTP+SSE on raw sockets, and a reader of /metrics.

Knows: requests as bytes, so that wrong ones can be sent. Does not know: which answer is right.
Every wait has a bound.
"""

import json
import re
import select
import socket
import time
import urllib.request

PATIENCE = 60  # seconds: far more than anything takes here


def until(what, condition):
    """The first value of `condition` that is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"waited in vain: {what}")


def message(method, id=None, **params):
    asked = {} if id is None else {"id": id}
    return json.dumps({"jsonrpc": "2.0", **asked, "method": method, "params": params}).encode()


class Connection:
    def __init__(self, server, receive_bytes=None):
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(server.address)
        self.unread = b""

    def send(self, data):
        self.socket.sendall(data)

    def fill(self):
        data = self.socket.recv(65536)
        self.unread += data
        return bool(data)

    def line(self):
        while b"\n" not in self.unread:
            if not self.fill():
                raise EOFError("the connection ended")
        line, self.unread = self.unread.split(b"\n", 1)
        return line.rstrip(b"\r")

    def status(self):
        """The status of the next response, whose body is read; `None` at the end of the connection."""
        try:
            status = int(self.line().split()[1])
            length = 0
            while line := self.line():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            while len(self.unread) < length:
                if not self.fill():
                    return None
            self.unread = self.unread[length:]
            return status
        except (EOFError, ConnectionResetError):
            return None

    def is_answered(self, seconds):
        return bool(select.select([self.socket], [], [], seconds)[0])

    def has_ended(self):
        try:
            while self.is_answered(0):
                if not self.fill():
                    return True
        except ConnectionResetError:
            return True
        return False

    def close(self):
        self.socket.close()


def head(target, *fields, method="POST", host="localhost"):
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(target, body, *fields):
    fields = (*fields, "Content-Type: application/json", f"Content-Length: {len(body)}")
    return head(target, *fields) + body


class Server:
    """A server under test: where it serves, where its metrics are, and the token that it wants."""

    def __init__(self, url, metrics_url, token=None):
        host, port = re.match(r"http://([^:/]+):(\d+)/", url).groups()
        self.address, self.url, self.metrics_url = (host, int(port)), url, metrics_url
        self.fields = [] if token is None else [f"Authorization: Bearer {token}"]

    def ask(self, data):
        """The status of the answer to a request on a connection of its own."""
        connection = Connection(self)
        connection.send(data)
        status = connection.status()
        connection.close()
        return status

    def scraped(self):
        """The samples of /metrics: their text up to the value, and the value."""
        with urllib.request.urlopen(self.metrics_url, timeout=PATIENCE) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def sum_of(self, series):
        """The sum of the samples that begin with `series`: a name, or a name with one label, `name{label="value"`."""
        of_series = lambda name: name == series or name.startswith(series if "{" in series else series + "{")
        return sum(value for name, value in self.scraped().items() if of_series(name))


class Stream:
    """A session: the connection of its stream, and the URI to post to."""

    def __init__(self, server, *fields, receive_bytes=None):
        self.server, self.fields = server, [*server.fields, *fields]
        self.connection = Connection(server, receive_bytes)
        self.connection.send(head("/sse", *self.fields, method="GET"))
        status = self.connection.line()
        assert b" 200 " in status, status
        self.endpoint = self.data()

    def data(self):
        """The data of the next event."""
        while True:
            line = self.connection.line()
            if line.startswith(b"data: "):
                return line[6:].decode()

    def post(self, body):
        return self.server.ask(post(self.endpoint, body, *self.fields))

    def call(self, method, id, **params):
        """The answer to a request."""
        status = self.post(message(method, id, **params))
        assert status == 202, f"{method}: {status}"
        while True:
            answer = json.loads(self.data())
            if answer.get("id") == id and "method" not in answer:
                return answer

    def initialize(self, name="client"):
        info = {"name": name, "version": "1"}
        return self.call("initialize", 0, protocolVersion="2024-11-05", capabilities={}, clientInfo=info)

    def close(self):
        self.connection.close()
