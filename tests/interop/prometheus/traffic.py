"""Makes traffic of every kind that has a metric, and waits until /metrics has it.

    traffic.py NAME=SSE_URL,METRICS_URL ...

Knows: the servers that `run` starts, by name, and what each metric counts. Does not know: Prometheus.
"""

import base64
import os
import sys
import threading
import traceback

from client import PATIENCE, Connection, Server, Stream, head, message, post, until

TOKENS = {"demo": os.environ["MCP_TOKEN"], "jwt": os.environ["MCP_TOKEN_JWT"]}
SERVERS = {}
for argument in sys.argv[1:]:
    name, urls = argument.split("=", 1)
    SERVERS[name] = Server(*urls.split(","), token=TOKENS.get(name))
demo, small, bridge, shared, jwt = (SERVERS[name] for name in ("demo", "small", "bridge", "shared", "jwt"))

KINDS = []


def kind(function):
    KINDS.append(function)
    return function


def counted(server, series, at_least=1):
    until(f"{series} of {server.url}", lambda: server.sum_of(series) >= at_least)


# ---- who is connected --------------------------------------------------------------------------------


@kind
def two_principals_with_sessions(kept):
    kept += [Stream(demo) for _ in range(3)]
    other = Server(demo.url, demo.metrics_url, token=os.environ["MCP_TOKEN_OTHER"])
    kept += [Stream(other) for _ in range(2)]
    counted(demo, 'mcp_sse_principal_sessions{principal="alice"', 3)
    counted(demo, 'mcp_sse_principal_sessions{principal="bob"', 2)
    counted(demo, "mcp_sse_sessions", 5)
    counted(demo, "mcp_sse_connections", 5)


@kind
def sessions_that_their_clients_end(kept):
    for server in (demo, bridge, shared):
        stream = Stream(server)
        stream.initialize()
        stream.close()
        counted(server, 'mcp_sse_sessions_ended_total{reason="peer"')


@kind
def heartbeats_on_idle_streams(kept):
    kept.append(Stream(demo))
    counted(demo, "mcp_sse_heartbeats_total")


@kind
def connections_beyond_the_limit(kept):
    # The longest-waiting connection without a request is closed for another one.
    connections = [Connection(small) for _ in range(20)]
    counted(small, "mcp_sse_evictions_total")
    for connection in connections:
        connection.close()


@kind
def requests_cut_short(kept):
    stream, connection = Stream(demo), Connection(demo)
    connection.send(post(stream.endpoint, message("ping", 1), *demo.fields)[:-1])
    connection.close()
    counted(demo, "mcp_sse_requests_truncated_total")
    stream.close()


# ---- what is slow ------------------------------------------------------------------------------------


@kind
def methods_of_mcp_and_others(kept):
    stream = Stream(demo)
    stream.initialize()
    stream.call("ping", 1)
    stream.call("tools/list", 2)
    stream.call("tools/call", 3, name="add", arguments={"a": 2, "b": 3})
    stream.call("tools/call", 4, name="broadcast", arguments={"message": "hello"})
    stream.call("logging/setLevel", 5, level="info")
    stream.call("no/such/method", 6)
    for method in ("initialize", "ping", "tools/list", "tools/call", "logging/setLevel", "other"):
        counted(demo, f'mcp_sse_request_seconds_count{{method="{method}"')
    stream.close()


@kind
def posts_for_the_session_of_another_worker(kept):
    stream = Stream(demo)
    for id in range(200):  # each connection is of either worker
        stream.call("ping", id)
        if id % 10 == 9 and demo.sum_of("mcp_sse_posts_forwarded_total") >= 3:
            break
    stream.close()
    counted(demo, "mcp_sse_posts_forwarded_total", 3)


@kind
def client_that_does_not_read(kept):
    stream = Stream(demo, receive_bytes=4096)
    assert stream.post(message("tools/call", 1, name="burst", arguments={"count": 2000, "bytes": 65536})) == 202
    counted(demo, "mcp_sse_stalls_total")
    counted(demo, 'mcp_sse_sessions_ended_total{reason="stalled"')
    counted(demo, "mcp_sse_frames_undelivered_total")
    counted(demo, "mcp_sse_queue_high_bytes")
    stream.close()


@kind
def posts_held_by_a_server_that_does_not_read(kept):
    stream = Stream(bridge, "X-Mode: deaf")
    asked = []
    for id in range(400):
        connection = Connection(bridge)
        connection.send(post(stream.endpoint, message("ping", id, text="x" * 30_000)))
        asked.append(connection)
        if not connection.is_answered(1):
            break
    counted(bridge, "mcp_sse_posts_held_total")
    counted(bridge, "mcp_sse_posts_waiting")
    counted(bridge, "mcp_sse_requests_in_flight")
    # Its client cancels the one that is held. Another one is held too long, and answered by an error on the stream.
    other = Connection(bridge)
    other.send(post(stream.endpoint, message("ping", "late", text="x" * 30_000)))
    assert stream.post(message("notifications/cancelled", requestId=id)) == 202
    counted(bridge, "mcp_sse_requests_withdrawn_total")
    assert other.status() == 202
    counted(bridge, 'mcp_sse_refusals_total{cause="busy"')
    stream.close()
    for connection in [*asked, other]:
        connection.close()


@kind
def questions_to_the_authorizer(kept):
    stream = Stream(jwt)
    stream.initialize()
    stream.call("ping", 1)
    assert jwt.ask(head("/sse", method="GET")) == 401
    counted(jwt, "mcp_sse_decision_seconds_count")
    counted(jwt, "mcp_sse_decisions_asked_total")
    counted(jwt, "mcp_sse_decisions_cached_total")
    counted(jwt, 'mcp_sse_refusals_total{cause="unauthorized"')
    stream.close()


# ---- what is refused, and why ------------------------------------------------------------------------


@kind
def posts_of_each_status(kept):
    stream = Stream(demo)
    uri, fields, ping = stream.endpoint, demo.fields, message("ping", 1)
    json = ["Content-Type: application/json", "Content-Length: 2"]
    cases = [
        (202, post(uri, message("notifications/initialized"), *fields)),
        (400, post(uri, b"{", *fields)),
        (400, post(uri, b"{}", *fields)),
        (400, post("/messages", ping, *fields)),
        (401, post(uri, ping)),
        (403, head(uri, *json, *fields, host="evil.example") + b"{}"),
        (403, post(uri, ping, "Origin: https://evil.example", *fields)),
        (404, post(uri + "A", ping, *fields)),
        (411, head(uri, json[0], *fields)),
        (413, head(uri, json[0], "Content-Length: 99999999", *fields)),
        (415, head(uri, "Content-Type: text/plain", "Content-Length: 2", *fields) + b"{}"),
        (417, post(uri, ping, "Expect: a-miracle", *fields)),
        (421, post(f"https://localhost{uri}", ping, *fields)),
        (431, post(uri, ping, "X: " + "x" * 20_000, *fields)),
        (501, head(uri, json[0], "Transfer-Encoding: gzip", *fields)),
    ]
    for status, data in cases:
        found = demo.ask(data)
        assert found == status, f"{found} instead of {status}: {data[:200]!r}"
    # What has a head that cannot be read is not known to be a post: it is counted by cause only.
    for status in sorted({status for status, _ in cases} - {431, 501}):
        counted(demo, f'mcp_sse_posts_total{{status="{status}"')
    for cause in ("head_too_large", "unsupported_transfer_coding"):
        counted(demo, f'mcp_sse_refusals_total{{cause="{cause}"')
    stream.close()


@kind
def requests_for_other_paths(kept):
    for status, data in [
        (404, head("/nowhere", *demo.fields, method="GET")),
        (405, head("/sse", "Content-Length: 0", *demo.fields)),
        (406, head("/sse", "Accept: text/html", *demo.fields, method="GET")),
    ]:
        assert demo.ask(data) == status, data
    for cause in ("not_found", "method_not_allowed", "not_acceptable"):
        counted(demo, f'mcp_sse_refusals_total{{cause="{cause}"')


@kind
def slow_head(kept):
    connection = Connection(demo)
    connection.send(b"POST /messages HTTP/1.1\r\nHost:")
    assert connection.status() == 408
    connection.close()
    counted(demo, 'mcp_sse_refusals_total{cause="head_timeout"')


@kind
def sessions_and_posts_beyond_their_limits(kept):
    kept += [Stream(small) for _ in range(4)]
    assert small.ask(head("/sse", method="GET")) == 503
    counted(small, 'mcp_sse_limit_refusals_total{limit="sessions_max"')
    statuses = [kept[-1].post(message("ping", id)) for id in range(10)]
    assert 429 in statuses, statuses
    counted(small, 'mcp_sse_limit_refusals_total{limit="posts_rate_per_session"')
    counted(small, 'mcp_sse_posts_total{status="429"')
    # Other kinds of traffic need room.
    for _ in range(2):
        kept.pop().close()


@kind
def post_for_the_session_of_another_instance(kept):
    stream = Stream(shared)
    target, token = stream.endpoint.split("=")
    # A token begins with the number of its shard, in 16 bits.
    raw = base64.urlsafe_b64decode(token[-32:])
    elsewhere = base64.urlsafe_b64encode(bytes([0, 77]) + raw[2:]).decode()
    assert shared.ask(post(f"{target}={token[:-32]}{elsewhere}", message("ping", 1))) == 404
    counted(shared, "mcp_sse_posts_misrouted_total")
    stream.close()


# ---- queues and memory, bridged servers ----------------------------------------------------------------


@kind
def bursts_that_are_read(kept):
    stream = Stream(demo)
    stream.call("tools/call", 1, name="burst", arguments={"count": 500, "bytes": 2000})
    stream.close()
    counted(demo, "mcp_sse_frames_sent_total", 500)
    counted(demo, "mcp_sse_sent_bytes_total", 500 * 2000)
    counted(demo, "mcp_sse_message_sent_bytes_count", 500)
    counted(demo, "mcp_sse_message_received_bytes_count")
    counted(demo, "mcp_sse_received_bytes_total")
    counted(demo, "mcp_sse_messages_received_total")


@kind
def bridged_servers_that_work(kept):
    kept += [Stream(bridge) for _ in range(2)]
    for stream in kept[-2:]:
        stream.initialize()
    counted(bridge, "mcp_sse_bridge_children", 2)
    counted(bridge, "mcp_sse_bridge_children_started_total", 2)
    counted(bridge, "mcp_sse_bridge_startup_seconds_count", 2)
    counted(bridge, "mcp_sse_bridge_stderr_lines_total", 2)


@kind
def bridged_servers_that_end(kept):
    stream = Stream(bridge, "X-Mode: fails")
    killed = Stream(bridge, "X-Mode: killed")
    for session in (stream, killed):
        assert session.post(message("ping", 1)) == 202
    counted(bridge, 'mcp_sse_bridge_children_exited_total{status="failure"')
    counted(bridge, 'mcp_sse_bridge_children_exited_total{status="signal"')
    # It ends with its client.
    left = Stream(bridge)
    left.initialize()
    left.close()
    counted(bridge, 'mcp_sse_bridge_children_exited_total{status="success"')
    for session in (stream, killed):
        session.close()


@kind
def bridged_server_that_prints_no_messages(kept):
    stream = Stream(bridge, "X-Mode: prints")
    stream.initialize()
    counted(bridge, "mcp_sse_bridge_lines_refused_total")
    counted(bridge, "mcp_sse_bridge_lines_too_long_total")
    stream.close()


@kind
def shared_server_that_is_started_again(kept):
    stream = Stream(shared)
    stream.initialize()
    stream.post(message("exit"))
    counted(shared, 'mcp_sse_bridge_children_exited_total{status="failure"')
    stream.close()

    def answered():
        other = Stream(shared)
        other.post(message("ping", 1))
        other.close()
        return shared.sum_of("mcp_sse_bridge_restarts_total") >= 1

    until("the shared server is started again", answered)


# ---- nothing that a client chooses is a label ----------------------------------------------------------


@kind
def odd_names_and_ids(kept):
    for server in SERVERS.values():
        before, refused = set(server.scraped()), server.sum_of("mcp_sse_refusals_total")
        for odd in ("x\" y\\ \n{}", "\u00e9\U0001f980" * 20, "a" * 300):
            stream = Stream(server, f"User-Agent: {odd!a}", "Accept-Language: " + ascii(odd))
            stream.post(message("initialize", odd, protocolVersion=odd, capabilities={}, clientInfo={"name": odd, "version": odd}))
            stream.post(message(odd, f"{odd}-id"))
            stream.post(message("tools/call", 2, name=odd, arguments={}))
            stream.post(message("resources/read", 3, uri=odd))
            server.ask(post("/" + ascii(odd).replace(" ", "+")[1:99], b"{}", *server.fields))
            server.ask(head("/sse", *server.fields, method="BREW"))
            server.ask(post(f"/messages?session_id={len(odd)}", b"{}", *server.fields))
            server.ask(head("/sse", *server.fields, method="GET", host=f"h{len(odd)}.example"))
            stream.close()
        # What is scraped now has counted all of them.
        counted(server, "mcp_sse_refusals_total", refused + 4 * 3)
        added = set(server.scraped()) - before
        assert not added, f"{server.url}: further series: {sorted(added)[:10]}"


# ---- all of it ---------------------------------------------------------------------------------------


def run(function, failures):
    kept = []
    name = function.__name__.replace("_", " ")
    try:
        function(kept)
        print(f"ok   traffic: {name}", flush=True)
    except Exception as error:
        failures.append(name)
        print(f"FAIL traffic: {name}: {error!r}", flush=True)
        traceback.print_exc()
    return kept


def main():
    failures = []
    # It only waits, so it waits beside the others.
    slow = threading.Thread(target=run, args=(slow_head, failures))
    slow.start()
    kept = [run(function, failures) for function in KINDS if function is not slow_head]
    slow.join(PATIENCE)
    print(f"holding {sum(map(len, kept))} connections", flush=True)
    # `run` closes this input when Prometheus has scraped what there is now.
    sys.stdin.read()
    sys.exit(1 if failures else 0)


main()
