"""What a client sees through a proxy that the official SDKs do not show: times, answers to the letter, addresses.

    probe.py delays URL            a stream's first event, and an answer on it, without a delay
    probe.py refusals URL DIRECT   refusals through the proxy are those of the server itself at DIRECT
    probe.py forged URL            fields that a client makes up are not believed
    probe.py addresses URL         the limit of 3 sessions for each address counts clients
    probe.py alive URL SECONDS     an idle stream lives for so long
    probe.py cut URL SECONDS       an idle stream without heartbeats is cut within so long
    probe.py instances URL NAME..  of twelve streams some are at each of these instances, and none elsewhere; a post
                                   to each is accepted
    probe.py misrouted URL NAME DIRECT
                                   a post to a session of the instance NAME that is sent to another one at DIRECT
    probe.py drained URL NAME PID  the instance NAME, which is the process PID, is told to stop: it gets no new streams,
                                   and still the posts of its sessions
    probe.py hold URL COUNT        opens idle streams, prints `holding`, and expects each to end

It prints a line for each check, and presents the token MCP_TOKEN if there is one.
"""

import json
import os
import select
import signal
import sys
import time
from urllib.parse import urljoin, urlsplit

from http_client import HANG_SECONDS, Stream, request

# The figure of a first event that is not buffered. It is the best of several tries that is compared: what a
# buffering proxy adds, it adds to each of them, and what a busy machine adds, it does not.
FIRST_EVENT_MS_MAX = 100
TRIES = 15

failed = 0


def check(name: str, holds: bool, why: str = "") -> None:
    global failed
    failed += not holds
    print(f"ok   {name}" if holds else f"FAIL {name}: {' '.join(why.split())}", flush=True)


def token(name: str = "MCP_TOKEN") -> dict:
    return {"Authorization": f"Bearer {os.environ[name]}"} if name in os.environ else {}


def rpc(method: str, number: int | None = 1) -> bytes:
    message = {"jsonrpc": "2.0", "method": method}
    return json.dumps(message | ({} if number is None else {"id": number})).encode()


JSON = {"Content-Type": "application/json"}


def delays(url):
    first, answer = [], []
    for _ in range(TRIES):
        with Stream(url, token()) as stream:
            stream.connection.socket.settimeout(HANG_SECONDS / 4)
            try:
                name, endpoint = stream.event()
                first.append((time.monotonic() - stream.opened) * 1000)
                if name != "endpoint":
                    return check("the first event is the endpoint", False, name)
                asked = time.monotonic()
                posted = request("POST", urljoin(url, endpoint), {**JSON, **token()}, rpc("ping"))
                if posted.status != 202:
                    return check("a post is accepted", False, f"{posted}")
                stream.event()
            except (EOFError, OSError) as fault:
                return check("events arrive", False, f"{fault!r}, {stream.answer}")
            answer.append((time.monotonic() - asked) * 1000)
        if min(first) < FIRST_EVENT_MS_MAX and min(answer) < FIRST_EVENT_MS_MAX and len(first) >= 3:
            break
    for what, times in (("the first event", first), ("an answer", answer)):
        best = min(times)
        check(
            f"{what} arrives in under {FIRST_EVENT_MS_MAX} ms (took {best:.1f})",
            best < FIRST_EVENT_MS_MAX,
            f"the best of {len(times)} tries",
        )


def refusals(url, direct):
    """The server's own answer and the one through the proxy: status, what says why, and the body."""
    host = {"Host": urlsplit(url).hostname}
    https = {"X-Forwarded-Proto": "https"}
    with Stream(url, token()) as stream:
        posts = urljoin(url, stream.event()[1])
        directly = urljoin(direct, "/messages?" + urlsplit(posts).query)
        big = b'"' + b"x" * 5 * 1024 * 1024 + b'"'
        table = [
            # what, method, is it the stream or the post, fields, body, expected status
            ("without a token", "GET", url, direct, {}, None, 401),
            ("with a wrong token", "GET", url, direct, {"Authorization": "Bearer no.such.token"}, None, 401),
            ("a post without a token", "POST", posts, directly, JSON, rpc("ping"), 401),
            ("of a foreign origin", "GET", url, direct, {"Origin": "https://evil.example", **token()}, None, 403),
            ("a post of a foreign origin", "POST", posts, directly,
             {**JSON, **token(), "Origin": "https://evil.example"}, rpc("ping"), 403),
            ("a post of 5 MiB", "POST", posts, directly, {**JSON, **token()}, big, 413),
            ("a post to the stream", "POST", url, direct, {**JSON, **token()}, rpc("initialize"), 405),
            ("a post that is no JSON", "POST", posts, directly, {**JSON, **token()}, b"{", 400),
            ("a post without a session", "POST", posts.split("?")[0], directly.split("?")[0],
             {**JSON, **token()}, rpc("ping"), 400),
            ("a post to a session of nobody", "POST", posts[:-32] + "A" * 32, directly[:-32] + "A" * 32,
             {**JSON, **token()}, rpc("ping"), 404),
            ("a post of text", "POST", posts, directly,
             {"Content-Type": "text/plain", **token()}, rpc("ping"), 415),
        ]
        for what, method, through, beside, fields, body, status in table:
            got = request(method, through, fields, body)
            own = request(method, beside, {**fields, **host, **https}, body)
            names = ("content-type", "www-authenticate", "allow")
            seen, said = (
                (answer.status, *(answer.fields.get(name) for name in names), answer.body) for answer in (got, own)
            )
            holds = seen == said and own.status == status
            check(f"{status} arrives as it was sent: {what}", holds, f"got {seen}, sent {said}"[:400])
        posted = request("POST", posts, {**JSON, **token()}, rpc("ping", 7))
        check("the session lives on", posted.status == 202 and '"id":7' in stream.event()[1], f"{posted}")


def forged(url):
    for name, value in (
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Proto", "gopher"),
        ("X-Forwarded-For", "<script>"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "for=192.0.2.66;proto=http;host=evil.example"),
    ):
        with Stream(url, {name: value, **token()}) as stream:
            prefix = urlsplit(url).path.removesuffix("sse")
            holds = stream.answer.status == 200 and stream.event()[1].startswith(f"{prefix}messages?")
            check(f"{name} of a client is not believed", holds, f"{stream.answer}")


def addresses(url):
    """Clients at 192.0.2.7 and .8. Addresses of loopback have no limit of their own."""
    streams = []

    def opened(source, fields=None):
        streams.append(Stream(url, {**token(), **(fields or {})}, source))
        return streams[-1].answer

    try:
        statuses = [opened("192.0.2.7").status for _ in range(3)]
        check("an address opens as many sessions as it may", statuses == [200] * 3, f"{statuses}")
        refused = opened("192.0.2.7")
        named = b"address" in refused.body and "retry-after" in refused.fields
        check("its next session is refused, and the limit is named", refused.status == 503 and named, f"{refused}")
        made_up = opened("192.0.2.7", {"X-Forwarded-For": "192.0.2.99"})
        check("it cannot make up another address", made_up.status == 503, f"{made_up}")
        check("another address has sessions of its own", opened("192.0.2.8").status == 200, "")
    finally:
        for stream in streams:
            stream.connection.socket.close()


def alive(url, seconds):
    with Stream(url, token()) as stream:
        endpoint = stream.event()[1]
        end = time.monotonic() + float(seconds)
        try:
            while (left := end - time.monotonic()) > 0:
                # Bytes may wait in the TLS layer, where select does not see them.
                ready = getattr(stream.connection.socket, "pending", lambda: 0)()
                if ready or select.select([stream.connection.socket], [], [], left)[0]:
                    if not stream.connection.more():
                        raise EOFError("the stream has ended")
            # The heartbeats are still in the buffer, and are counted on the way to the answer.
            posted = request("POST", urljoin(url, endpoint), {**JSON, **token()}, rpc("ping", 9))
            answered = posted.status == 202 and '"id":9' in stream.event()[1]
            check(f"an idle stream is there after {seconds} s, by heartbeats", answered and stream.heartbeats > 0,
                  f"{posted.status}, {stream.heartbeats} heartbeats")
        except (EOFError, OSError) as fault:
            check(f"an idle stream is there after {seconds} s, by heartbeats", False, repr(fault))


def cut(url, seconds):
    with Stream(url, token()) as stream:
        stream.event()
        stream.connection.socket.settimeout(float(seconds))
        try:
            stream.event()
        except TimeoutError:
            return check("an idle stream without heartbeats is cut", False, f"it is there after {seconds} s")
        except (EOFError, OSError):
            pass
        took = time.monotonic() - stream.opened
        check(f"an idle stream without heartbeats is cut (after {took:.1f} s)", stream.heartbeats == 0, "heartbeats")


def instance_of(endpoint: str) -> str:
    return endpoint.partition("session_id=")[2].partition(".")[0]


def instances(url, *names):
    streams = [Stream(url, token()) for _ in range(12)]
    try:
        found = {}
        for stream in streams:
            endpoint = stream.event()[1]
            posted = request("POST", urljoin(url, endpoint), {**JSON, **token()}, rpc("ping", 5))
            answered = posted.status == 202 and '"id":5' in stream.event()[1]
            found.setdefault(instance_of(endpoint), []).append(answered)
        counts = {name: len(answers) for name, answers in found.items()}
        check(f"streams are at {', '.join(names)}", set(found) == set(names), f"{counts}")
        check("every post reaches the session's instance", all(all(answers) for answers in found.values()), f"{found}")
    finally:
        for stream in streams:
            stream.connection.socket.close()


def misrouted(url, name, direct):
    streams = []
    try:
        while len(streams) < 12:
            streams.append(Stream(url, token()))
            endpoint = streams[-1].event()[1]
            if instance_of(endpoint) == name:
                break
        wrong = f"{direct}?{urlsplit(endpoint).query}"
        fields = {"Host": urlsplit(url).hostname, "X-Forwarded-Proto": "https", **JSON, **token()}
        posted = request("POST", wrong, fields, rpc("ping"))
        nobody = request("POST", wrong[:-32] + "A" * 32, fields, rpc("ping"))
        check("a post to another instance is 404", posted.status == 404, f"{posted}")
        check("its answer is that of an unknown session", posted.body == nobody.body, f"{posted} {nobody}")
        again = request("POST", urljoin(url, endpoint), {**JSON, **token()}, rpc("ping", 6))
        check("its session lives on", again.status == 202 and '"id":6' in streams[-1].event()[1], f"{again}")
    finally:
        for stream in streams:
            stream.connection.socket.close()


def drained(url, name, pid):
    def opened():
        stream = Stream(url, token())
        return stream, stream.event()[1]

    for _ in range(12):
        stream, endpoint = opened()
        if instance_of(endpoint) == name:
            break
        stream.connection.socket.close()
    os.kill(int(pid), signal.SIGTERM)
    end = time.monotonic() + 30
    others = 0
    while others < 9 and time.monotonic() < end:  # in a row: enough to meet each of three replicas
        other, elsewhere = opened()
        other.connection.socket.close()
        others = 0 if instance_of(elsewhere) == name else others + 1
        time.sleep(0.1)
    check("an instance that stops gets no new streams", others == 9, f"{others} in a row were at others")
    posts = [request("POST", urljoin(url, endpoint), {**JSON, **token()}, rpc("ping", id)) for id in range(6)]
    answers = [stream.event()[1] for post in posts if post.status == 202]
    check("it still gets the posts of its sessions", len(answers) == 6, f"{posts}")
    stream.connection.socket.close()


def hold(url, count):
    streams = [Stream(url, token()) for _ in range(int(count))]
    for stream in streams:
        stream.event()
    print("holding", flush=True)
    ended = 0
    for stream in streams:
        stream.connection.socket.settimeout(HANG_SECONDS)
        try:
            stream.event()
        except TimeoutError:
            pass
        except (EOFError, OSError):
            ended += 1
    check("its clients notice the end", ended == len(streams), f"{ended} of {len(streams)}")


modes = [delays, refusals, forged, addresses, alive, cut, instances, misrouted, drained, hold]
mode = next((mode for mode in modes if sys.argv[1:2] == [mode.__name__]), None)
if mode is None or len(sys.argv) < 3:
    sys.exit(__doc__)
mode(*sys.argv[2:])
sys.exit(1 if failed else 0)
