"""The official Python SDK against any MCP SSE server with the tools of...

    client.py SSE_URL demo          the demo: add, broadcast, burst, echo
    client.py SSE_URL calculator    the calculator: add
    client.py SSE_URL toolbox       the tests' toolbox: those that talk to the client
    client.py SSE_URL everything    @modelcontextprotocol/server-everything
    client.py SSE_URL filesystem    @modelcontextprotocol/server-filesystem, with one directory
    client.py SSE_URL time          mcp-server-time
    client.py SSE_URL shared        the URL of the first of these three, where each has one process
    client.py SSE_URL guarded       the demo, by the token MCP_TOKEN: the same, and what happens without it,
                                    or with MCP_TOKEN_OTHER, which is somebody else's. MCP_METADATA is
                                    the URL of the resource's metadata, if it has any
    client.py SSE_URL endpoint      the demo, in short: behind a proxy, does the endpoint lead back to the session?
    client.py SSE_URL traffic NAME  the demo, three instances of it behind a balancer, of which NAME will be killed
    client.py SSE_URL hold          any: opens idle sessions, prints `holding`, and expects the server to
                                    end them
"""

import os
import re
import sys

import anyio

from checks import Checks, equal, until
from sdk import (
    LATEST,
    MAJOR,
    REQUEST_TIMEOUT,
    VERSION,
    RpcError,
    authorization,
    cancelled,
    connect,
    failed,
    hand_shake,
    httpx,
    server_of,
)
from shared import shared
from traffic import traffic

INVALID_PARAMS, METHOD_NOT_FOUND, INTERNAL_ERROR = -32602, -32601, -32603
UNICODE = 'h\u00e9llo "\\ \r\n\t w\u00f6rld | \u2028 | \u2029 | \u0085 | \U0001f980 \U0001f469\u200d\U0001f680 | e\u0301 | \ufeff'
MIB = 1024 * 1024


async def call(conn, tool: str, **arguments) -> str:
    result = await conn.session.call_tool(tool, arguments)
    equal(failed(result), False, f"{tool} failed")
    equal([part.type for part in result.content], ["text"], f"content of {tool}")
    return result.content[0].text


async def rpc_error(awaitable) -> int:
    try:
        result = await awaitable
    except RpcError as error:
        return error.error.code
    raise AssertionError(f"expected a JSON-RPC error, got {result!r}")


async def post(url: str, message: dict, headers=None):
    headers = authorization() if headers is None else headers
    async with httpx.AsyncClient(timeout=5, headers=headers) as client:
        return await client.post(url, json=message)


async def active_sessions(url: str) -> int:
    async with httpx.AsyncClient(timeout=5) as client:
        answer = await client.get(httpx.URL(url).join("health"))
    equal(answer.status_code, 200, "status of /health")
    return answer.json()["active_sessions"]


async def all_accepted(conn):
    """Every post of the SDK was answered 202. The last of these answers may follow its message's answer on the stream."""
    await until("an answer to every post", lambda: all(status for _, status in conn.posts))
    equal({status for _, status in conn.posts}, {202}, "statuses of the SDK's posts")


async def initialize(url):
    async with connect(url, initialize=False) as conn:
        version, name, release = server_of(await conn.session.initialize())
        equal(version, LATEST, "negotiated version")
        assert name and release, "the server names neither itself nor its version"
        await all_accepted(conn)


async def versions(url):
    for version in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
        async with connect(url, initialize=False) as conn:
            equal(await hand_shake(conn.session, version), version, "negotiated version")
    async with connect(url, initialize=False) as conn:
        equal(await hand_shake(conn.session, "1999-01-01"), LATEST, "answer to an unknown version")


async def discover_first(url):
    """The 2.x `Client` asks `server/discover` before `initialize`, and falls back on an error."""
    from mcp import Client
    from mcp.client.sse import sse_client

    async with Client(sse_client(url, headers=authorization())) as client:
        equal(client.protocol_version, LATEST, "version after the fallback")
        result = await client.call_tool("add", {"a": 2, "b": 3})
        equal(result.content[0].text, "5", "sum")


async def discover(url):
    """As above, where the server knows the later revision, which goes on without `initialize`."""
    from mcp import Client
    from mcp.client.sse import sse_client

    async with Client(sse_client(url, headers=authorization())) as client:
        assert client.protocol_version > LATEST, client.protocol_version
        result = await client.call_tool("add", {"a": 2, "b": 3})
        equal(result.content[0].text, "5", "sum")


async def list_tools(url, *names):
    async with connect(url) as conn:
        tools = (await conn.session.list_tools()).tools
        equal(sorted(tool.name for tool in tools), sorted(names), "tools")


async def add(url):
    async with connect(url) as conn:
        equal(await call(conn, "add", a=2, b=3), "5", "2 + 3")
        equal(float(await call(conn, "add", a=-1.5, b=2)), 0.5, "-1.5 + 2")


async def echo(url):
    async with connect(url) as conn:
        for message in ("", "plain", UNICODE, "x" * 100 * 1024, UNICODE * 2000):
            equal(await call(conn, "echo", message=message), message, "echo")


async def burst(url, count, size):
    async with connect(url) as conn:
        await conn.session.list_tools()  # or the SDK lists them by itself after the call
        await call(conn, "burst", count=count, bytes=size)
        equal([len(data.encode()) for data in conn.logged], [size] * count, "sizes given to the callback")
        # All of them before the result, and nothing after it: a ping flushes what might follow.
        await conn.session.send_ping()
        kinds = [kind for kind, _ in conn.arrived]
        equal(kinds.count("log"), count, "notifications on the wire")
        last = max(at for at, kind in enumerate(kinds) if kind == "log")
        equal(kinds[last + 1 :].count("answer"), 2, "answers behind the last notification (result, ping)")


async def broadcast(url):
    async with connect(url) as sender, connect(url) as listener:
        sent = [f"{number} {UNICODE}" for number in range(20)]
        for message in sent:
            reached = await call(sender, "broadcast", message=message)
            assert int(re.search(r"\d+", reached)[0]) >= 2, f"reached too few: {reached}"
        for conn in (sender, listener):
            await until("20 broadcasts", lambda: len(conn.logged) >= 20)
            await conn.session.send_ping()
            equal(conn.logged, sent, "broadcasts in order, once each")


async def ping(url):
    async with connect(url) as conn:
        for _ in range(3):
            await conn.session.send_ping()


async def refused_calls(url):
    async with connect(url) as conn:
        equal(await rpc_error(conn.session.call_tool("nope", {})), INVALID_PARAMS, "unknown tool")
        equal(await call(conn, "add", a=1, b=1), "2", "the session afterwards")
        for tool, arguments in (
            ("add", {"a": "one", "b": 2}),
            ("add", {"a": 1}),
            ("echo", {"message": 5}),
            ("burst", {"count": "many", "bytes": 1}),
            ("broadcast", {}),
        ):
            code = await rpc_error(conn.session.call_tool(tool, arguments))
            equal(code, INVALID_PARAMS, f"{tool} {arguments}")
            equal(await call(conn, "add", a=1, b=1), "2", "the session afterwards")


async def unknown_method(url):
    async with connect(url) as conn:
        equal(await rpc_error(conn.session.list_prompts()), METHOD_NOT_FOUND, "prompts/list")
        equal(await call(conn, "add", a=1, b=1), "2", "the session afterwards")


async def oversized(url):
    """The SDK hears 413, tells nobody, and posts no more; the server's session must live on."""
    async with connect(url) as other, connect(url, read_timeout=2) as conn:
        code = await rpc_error(conn.session.call_tool("echo", {"message": "x" * 5 * MIB}))
        equal(code, REQUEST_TIMEOUT, "what the SDK surfaces")
        equal(conn.posts[-1][1], 413, "status of the post")
        # Behind a proxy there may be more: some notice a client's end with the next heartbeat.
        assert await active_sessions(url) >= 2, "one of the two sessions is gone"
        # What this client can no longer do, another post to its session still can.
        ping = {"jsonrpc": "2.0", "id": 777, "method": "ping"}
        equal((await post(conn.endpoint, ping)).status_code, 202, "a raw post to the session")
        await until("its answer on the stream", lambda: ("answer", 777) in conn.arrived)
        assert not conn.ended.is_set() and not conn.faults, f"the stream broke: {conn.faults}"
        equal(await call(other, "add", a=2, b=2), "4", "another session")
    async with connect(url) as conn:
        equal(await call(conn, "add", a=2, b=3), "5", "a new session")


async def just_below_the_limit(url):
    """3 MiB are under the server's limit; a result of another size, as 2.x takes events up to 1 MiB."""
    async with connect(url) as conn:
        arguments = {"message": 5, "padding": "x" * 3 * MIB}
        equal(await rpc_error(conn.session.call_tool("echo", arguments)), INVALID_PARAMS, "a 3 MiB request")
        equal(await call(conn, "add", a=2, b=3), "5", "the session afterwards")


async def reconnect(url):
    async with connect(url) as first:
        await call(first, "add", a=1, b=2)
        old = first.endpoint
    async with connect(url) as second:
        equal(await call(second, "add", a=2, b=3), "5", "the new session")
        assert second.endpoint != old, "two sessions share an endpoint"

        async def dead() -> bool:
            answer = await post(old, {"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert answer.status_code in (202, 404), f"status {answer.status_code}"
            return answer.status_code == 404

        await until("404 for the old endpoint", dead)
        equal(await call(second, "add", a=2, b=3), "5", "the new session afterwards")


async def concurrent_calls(url):
    """Every fifth is a burst, so that the others really are asked while one is being answered."""
    async with connect(url) as conn:
        answers = {}

        async def one(number):
            if number % 5 == 0:
                await call(conn, "burst", count=100, bytes=10_000)
                answers[number] = f"message {number}"
            else:
                answers[number] = await call(conn, "echo", message=f"message {number}")

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        equal(answers, {number: f"message {number}" for number in range(20)}, "answers")
        equal(len(conn.logged), 400, "notifications")


async def concurrent_sessions(url):
    before = await active_sessions(url)
    opened, all_counted = [], anyio.Event()

    async def one(number):
        async with connect(url) as conn:
            opened.append(number)
            await all_counted.wait()
            equal(await call(conn, "add", a=number, b=1000), str(number + 1000), "sum")
            equal(conn.logged, [], "notifications of other sessions")

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(one, number)
        await until("10 sessions", lambda: len(opened) == 10)
        equal(await active_sessions(url) >= 10, True, "/health counts the sessions")
        all_counted.set()

    async def all_gone():
        return await active_sessions(url) <= before

    await until("/health forgets the sessions", all_gone)


async def post_to_the_stream(url):
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    answer = await post(url, message)
    equal(answer.status_code, 405, "status")
    assert "GET" in answer.headers.get("allow", ""), f"Allow: {answer.headers.get('allow')}"
    assert "jsonrpc" not in answer.text, "the body looks like JSON-RPC"


async def demo(checks, url):
    await checks("initialize", initialize, url)
    await checks("every protocol version", versions, url)
    if MAJOR >= 2:
        await checks("server/discover, then initialize", discover_first, url)
    await checks("list_tools", list_tools, url, "add", "broadcast", "burst", "echo")
    await checks("add", add, url)
    await checks("echo: unicode, 100 KiB", echo, url)
    await checks("burst of 200 x 1000 bytes", burst, url, 200, 1000)
    await checks("burst of 64 x 64 KiB, more than a queue holds", burst, url, 64, 65536)
    await checks("broadcast", broadcast, url)
    await checks("ping", ping, url)
    await checks("unknown tool, bad arguments", refused_calls, url)
    await checks("unknown method", unknown_method, url)
    await checks("5 MiB: 413, harmless", oversized, url)
    await checks("3 MiB", just_below_the_limit, url)
    await checks("reconnect; the old endpoint is dead", reconnect, url)
    await checks("20 concurrent calls", concurrent_calls, url)
    await checks("10 concurrent sessions", concurrent_sessions, url)
    await checks("POST to the stream is 405", post_to_the_stream, url)


async def endpoint(checks, url):
    await checks("initialize", initialize, url)
    await checks("list_tools", list_tools, url, "add", "broadcast", "burst", "echo")
    await checks("add", add, url)
    await checks("echo: unicode, 100 KiB", echo, url)
    await checks("burst of 200 x 1000 bytes", burst, url, 200, 1000)
    await checks("reconnect; the old endpoint is dead", reconnect, url)


async def calculator(checks, url):
    await checks("initialize", initialize, url)
    await checks("every protocol version", versions, url)
    if MAJOR >= 2:
        await checks("server/discover, and no initialize", discover, url)
    await checks("list_tools", list_tools, url, "add")
    await checks("add", add, url)
    await checks("ping", ping, url)
    await checks("reconnect; the old endpoint is dead", reconnect, url)
    await checks("10 concurrent sessions", concurrent_sessions, url)
    await checks("POST to the stream is 405", post_to_the_stream, url)


async def sampling(url):
    async with connect(url, model=lambda text: f"<{text}>") as conn:
        for text in ("plain", UNICODE, "x" * 100 * 1024):
            equal(await call(conn, "ask", text=text), f"interop says: <{text}>", "the model's answer")


async def concurrent_sampling(url):
    async with connect(url, model=str.upper) as conn:
        answers = {}

        async def one(number):
            answers[number] = await call(conn, "ask", text=f"question {number}")

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        expected = {number: f"interop says: QUESTION {number}" for number in range(20)}
        equal(answers, expected, "answers")


async def sampling_refused(url):
    async with connect(url) as conn:
        equal(await rpc_error(conn.session.call_tool("ask", {"text": "?"})), INTERNAL_ERROR, "code")
        equal(await call(conn, "add", a=1, b=1), "2", "the session afterwards")


async def progress(url):
    async with connect(url) as conn:
        told = []

        async def note(done, total, message):
            told.append((done, total, message))

        await conn.session.list_tools()  # or the SDK lists them by itself after the call
        result = await conn.session.call_tool("count", {"count": 50}, progress_callback=note)
        equal(result.content[0].text, "counted to 50", "result")
        await until("50 notifications", lambda: len(told) >= 50)
        equal(told, [(n, 50, f"number {n}") for n in range(1, 51)], "progress, in order")


async def logging(url):
    async with connect(url) as conn, connect(url) as other:
        lines = [f"{number} {UNICODE}" for number in range(20)]
        for line in lines:
            equal(await call(conn, "log", text=line), "logged", "result")
        equal(conn.logged, lines, "lines, each before its result")
        await other.session.send_ping()
        equal(other.logged, [], "lines of another session")


async def cancellation(url):
    async with connect(url) as conn, connect(url) as other:
        waiting, before = (int(count) for count in (await call(other, "waits")).split())

        async def waits(now_waiting, now_cancelled):
            expected = f"{waiting + now_waiting} {before + now_cancelled}"
            await until(expected, lambda: reads(expected))

        async def reads(expected):
            return await call(other, "waits") == expected

        await conn.session.list_tools()
        async with anyio.create_task_group() as group:
            group.start_soon(conn.session.call_tool, "wait", {})
            await waits(1, 0)
            asked = next(sent["id"] for sent in conn.sent if sent.get("params", {}).get("name") == "wait")
            await conn.session.send_notification(cancelled(asked))
            await waits(0, 1)
            # A cancelled request has no answer: whoever has given it up hears no more of it.
            await conn.session.send_ping()
            equal([item for item in conn.arrived if item == ("answer", asked)], [], "answers")
            group.cancel_scope.cancel()
        equal(await call(other, "add", a=1, b=1), "2", "the other session afterwards")


async def client_gone(url):
    """A call whose client has left is cancelled too."""
    async with connect(url) as other:
        waiting, before = (int(count) for count in (await call(other, "waits")).split())

        async def reads(expected):
            return await call(other, "waits") == expected

        async with connect(url) as conn:
            message = {"jsonrpc": "2.0", "id": "w", "method": "tools/call", "params": {"name": "wait"}}
            equal((await post(conn.endpoint, message)).status_code, 202, "a raw post to the session")
            await until("a call that waits", lambda: reads(f"{waiting + 1} {before}"))
        await until("its end", lambda: reads(f"{waiting} {before + 1}"), seconds=10)


def leaves(fault: BaseException) -> list:
    """What is in the task groups that the SDK wraps most things in."""
    if isinstance(fault, BaseExceptionGroup):
        return [leaf for inner in fault.exceptions for leaf in leaves(inner)]
    return [fault]


async def refusal(url, headers):
    """The response that the SDK's transport raises instead of connecting."""
    try:
        async with connect(url, headers=headers):
            pass
    except BaseException as fault:
        found = [leaf for leaf in leaves(fault) if isinstance(leaf, httpx.HTTPStatusError)]
        if len(found) != 1:
            raise
        return found[0].response
    raise AssertionError("it was let in")


async def without_a_token(url):
    from mcp.client.auth.utils import (
        build_protected_resource_metadata_discovery_urls,
        extract_field_from_www_auth,
        extract_resource_metadata_from_www_auth,
        handle_protected_resource_response,
    )

    expected = os.environ.get("MCP_METADATA")
    for headers, error in (({}, None), (authorization("no.such.token"), "invalid_token")):
        response = await refusal(url, headers)
        equal(response.status_code, 401, "status")
        equal(response.headers["www-authenticate"].split(" ")[0].rstrip(","), "Bearer", "scheme")
        equal(extract_field_from_www_auth(response, "error"), error, "the error, as the SDK reads it")
        metadata = extract_resource_metadata_from_www_auth(response)
        equal(metadata, expected, "where the SDK would look for the metadata")
    if not expected:
        return
    # What its OAuth flow would do next.
    found = build_protected_resource_metadata_discovery_urls(metadata, url)[0]
    async with httpx.AsyncClient(timeout=5) as client:
        resource = await handle_protected_resource_response(await client.get(found))
    equal(str(resource.resource), url, "the resource")
    equal(len(resource.authorization_servers), 1, "authorization servers")


async def session_of_another(url):
    async with connect(url) as conn:
        message = {"jsonrpc": "2.0", "id": "x", "method": "ping"}
        other = authorization(os.environ["MCP_TOKEN_OTHER"])
        stranger = await post(conn.endpoint, message, other)
        nobody = await post(re.sub("=.{32}", "=" + "A" * 32, conn.endpoint), message)
        equal((stranger.status_code, stranger.text), (404, nobody.text), "the answer to a stranger")
        equal((await post(conn.endpoint, message, {})).status_code, 401, "a post without a token")
        async with connect(url, headers=other) as another:
            equal(await call(another, "add", a=1, b=2), "3", "a session of the other's own")
        equal(await call(conn, "add", a=2, b=3), "5", "the session afterwards")
        await all_accepted(conn)


async def guarded(checks, url):
    await checks("401 without a token, and with a bad one", without_a_token, url)
    await checks("a session is its principal's", session_of_another, url)
    await demo(checks, url)


async def toolbox(checks, url):
    await checks("initialize", initialize, url)
    await checks("sampling", sampling, url)
    await checks("20 concurrent samplings", concurrent_sampling, url)
    await checks("sampling, of a client without", sampling_refused, url)
    await checks("progress", progress, url)
    await checks("logging", logging, url)
    await checks("cancellation", cancellation, url)
    await checks("a call whose client leaves", client_gone, url)


async def texts(conn, tool: str, **arguments) -> str:
    """As `call`, for tools with several parts of content."""
    result = await conn.session.call_tool(tool, arguments)
    equal(failed(result), False, f"{tool} failed")
    return "\n".join(part.text for part in result.content if part.type == "text")


def holds(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


async def tools_of_everything(url):
    async with connect(url) as conn:
        names = {tool.name for tool in (await conn.session.list_tools()).tools}
        assert {"echo", "get-sum", "trigger-long-running-operation"} <= names, names
        for message in ("plain", UNICODE, "x" * 100 * 1024):
            equal(await call(conn, "echo", message=message), f"Echo: {message}", "echo")
        equal(await call(conn, "get-sum", a=2, b=3), "The sum of 2 and 3 is 5.", "sum")


async def resources(url):
    async with connect(url) as conn:
        listed = (await conn.session.list_resources()).resources
        uri = "demo://resource/static/document/features.md"
        assert uri in [str(resource.uri) for resource in listed], listed
        holds((await conn.session.read_resource(uri)).contents[0].text, "Everything Server")


async def prompts(url):
    async with connect(url) as conn:
        names = {prompt.name for prompt in (await conn.session.list_prompts()).prompts}
        assert {"simple-prompt", "args-prompt"} <= names, names
        prompt = await conn.session.get_prompt("args-prompt", {"city": "Rome"})
        holds(prompt.messages[0].content.text, "Rome")


async def progress_of_everything(url):
    async with connect(url) as conn:
        async def note(*_told):
            pass

        await conn.session.list_tools()
        arguments = {"duration": 0.2, "steps": 4}
        result = await conn.session.call_tool(
            "trigger-long-running-operation", arguments, progress_callback=note
        )
        holds(result.content[0].text, "completed")
        told = [number for kind, number in conn.arrived if kind == "progress"]
        equal(told, [1, 2, 3, 4], "progress on the wire")


async def logging_of_everything(url):
    async with connect(url) as conn, connect(url) as other:
        # It logs at a level of its choice, at once and then every 5 s.
        await call(conn, "toggle-simulated-logging")
        await until("a line of the log", lambda: conn.logged, seconds=15)
        await other.session.send_ping()
        equal(other.logged, [], "lines of another session")


async def sampling_of_everything(url):
    async with connect(url, model=lambda text: f"<{text}>") as conn:
        answer = await texts(conn, "trigger-sampling-request", prompt="why", maxTokens=7)
        holds(answer, "<Resource trigger-sampling-request context: why>")


async def elicitation(url):
    async with connect(url, form={"name": "Ann", "check": True}) as conn:
        holds(await texts(conn, "trigger-elicitation-request"), "Name: Ann")


async def separate_sums(url):
    before = await active_sessions(url)

    async def one(number):
        async with connect(url) as conn:
            for _ in range(5):
                expected = f"The sum of {number} and 1000 is {number + 1000}."
                equal(await call(conn, "get-sum", a=number, b=1000), expected, "sum")

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, number)

    async def all_gone():
        return await active_sessions(url) <= before

    await until("/health forgets the sessions", all_gone)


async def everything(checks, url):
    await checks("initialize", initialize, url)
    await checks("tools", tools_of_everything, url)
    await checks("resources", resources, url)
    await checks("prompts", prompts, url)
    await checks("progress", progress_of_everything, url)
    await checks("logging", logging_of_everything, url, seconds=30)
    await checks("sampling", sampling_of_everything, url)
    await checks("elicitation", elicitation, url)
    await checks("ping", ping, url)
    await checks("5 concurrent sessions", separate_sums, url, seconds=60)


async def files(url):
    async with connect(url) as conn:
        directory = (await texts(conn, "list_allowed_directories")).splitlines()[-1].strip()
        path = f"{directory}/{MAJOR}.txt"
        for content in ("plain", UNICODE.replace("\r\n", "\n"), "x" * 100 * 1024):
            await texts(conn, "write_file", path=path, content=content)
            equal(await texts(conn, "read_text_file", path=path), content, "what was written")
        holds(await texts(conn, "list_directory", path=directory), f"{MAJOR}.txt")
        refused = await conn.session.call_tool("read_text_file", {"path": "/etc/hostname"})
        equal(failed(refused), True, "a file elsewhere is refused")


async def filesystem(checks, url):
    await checks("initialize", initialize, url)
    await checks("files", files, url)
    await checks("ping", ping, url)


async def clocks(url):
    async with connect(url) as conn:
        names = {tool.name for tool in (await conn.session.list_tools()).tools}
        equal(names, {"get_current_time", "convert_time"}, "tools")
        asked = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        holds(await texts(conn, "convert_time", **asked), "T21:00:00+09:00")
        holds(await texts(conn, "get_current_time", timezone="UTC"), "+00:00")


async def time(checks, url):
    await checks("initialize", initialize, url)
    await checks("tools", clocks, url)
    await checks("ping", ping, url)


async def hold(checks, url):
    async with connect(url) as one, connect(url) as two:
        print("holding", flush=True)

        async def ended():
            for conn in (one, two):
                await conn.ended.wait()
                equal(conn.faults, [], "transport errors at the end of the stream")

        async def told():
            try:
                await one.session.send_ping()
            except Exception:
                return
            raise AssertionError("a ping was answered after the end")

        await checks("the server ended idle streams cleanly", ended, seconds=60)
        await checks("a call afterwards fails at once", told, seconds=5)


async def main():
    modes = {"demo": demo, "guarded": guarded, "calculator": calculator, "toolbox": toolbox, "hold": hold}
    modes |= {"everything": everything, "filesystem": filesystem, "time": time, "shared": shared}
    modes |= {"endpoint": endpoint, "traffic": traffic}
    url, mode, *arguments = sys.argv[1:] if len(sys.argv) >= 3 else ("", "")
    if mode not in modes or len(arguments) != (mode == "traffic"):
        sys.exit(__doc__)
    checks = Checks(f"mcp {VERSION}")
    await modes[mode](checks, url, *arguments)
    sys.exit(1 if checks.failed else 0)


anyio.run(main)
