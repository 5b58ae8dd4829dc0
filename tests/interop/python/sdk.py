"""A connection by the official Python SDK, and everything in which its majors 1 and 2 differ.

Both go through `sse_client` and `ClientSession`. The connection also records what the SDK's
transport saw: each post with its status, each message in the order of its arrival, and the end.
"""

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version

import anyio
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.shared._httpx_utils import create_mcp_http_client

VERSION = version("mcp")
MAJOR = int(VERSION.split(".")[0])

if MAJOR == 1:
    import httpx
    import mcp.types as types
    from mcp.shared.exceptions import McpError as RpcError

    REQUEST_TIMEOUT = 408  # what the SDK itself makes of an answer that never comes
else:
    import httpx2 as httpx
    import mcp_types as types
    from mcp.shared.exceptions import MCPError as RpcError

    REQUEST_TIMEOUT = -32001

LATEST = "2025-11-25"


def authorization(token: str | None = None) -> dict:
    """The field that presents a token: this one, or that of the environment, if there is one."""
    token = token or os.environ.get("MCP_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


@dataclass
class Connection:
    session: ClientSession
    posts: list = field(default_factory=list)  # (url, status) of every post; None before the answer
    sent: list = field(default_factory=list)  # what was posted
    arrived: list = field(default_factory=list)  # ("log", data) or ("answer", id), as on the wire
    logged: list = field(default_factory=list)  # data given to the logging callback
    faults: list = field(default_factory=list)  # transport errors given to the session
    ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def endpoint(self) -> str:
        return self.posts[0][0]


class Tap:
    """The transport's read stream, noting what passes."""

    def __init__(self, stream, conn: Connection) -> None:
        self._stream, self._conn = stream, conn

    def __getattr__(self, name):
        return getattr(self._stream, name)

    async def __aenter__(self):
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *fault):
        return await self._stream.__aexit__(*fault)

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            item = await self._stream.__anext__()
        except StopAsyncIteration:
            self._conn.ended.set()
            raise
        if isinstance(item, Exception):
            self._conn.faults.append(item)
            return item
        message = getattr(item.message, "root", item.message)
        method = getattr(message, "method", None)
        if method == "notifications/message":
            self._conn.arrived.append(("log", message.params["data"]))
        elif method == "notifications/progress":
            self._conn.arrived.append(("progress", message.params["progress"]))
        elif method is None:
            self._conn.arrived.append(("answer", message.id))
        return item


@asynccontextmanager
async def connect(
    url: str, *, read_timeout: float | None = None, initialize: bool = True, model=None, form=None, headers=None
):
    """`model`: asked by the server (sampling), it says the text of its answer. `form`: what is filled
    into any form of the server's (elicitation).

    `headers`: instead of the token of the environment.
    """
    conn = Connection(session=None)

    async def note_post(request) -> None:
        if request.method == "POST":
            conn.posts.append((str(request.url), None))
            conn.sent.append(json.loads(request.content))

    async def note_status(response) -> None:
        if response.request.method == "POST":  # the SDK posts one at a time, so it is the last
            conn.posts[-1] = (str(response.request.url), response.status_code)

    def http_client(headers=None, timeout=None, auth=None):
        client = create_mcp_http_client(headers=headers, timeout=timeout, auth=auth)
        client.event_hooks = {"request": [note_post], "response": [note_status]}
        return client

    async def note_log(params) -> None:
        conn.logged.append(params.data)

    async def sample(_context, params):
        answer = types.TextContent(type="text", text=model(params.messages[0].content.text))
        return types.CreateMessageResult(role="assistant", content=answer, model="interop")

    async def elicit(_context, _params):
        return types.ElicitResult(action="accept", content=form)

    if read_timeout is not None and MAJOR == 1:
        read_timeout = timedelta(seconds=read_timeout)
    headers = authorization() if headers is None else headers
    async with sse_client(url, headers=headers, httpx_client_factory=http_client) as (read, write):
        async with ClientSession(
            Tap(read, conn),
            write,
            read_timeout_seconds=read_timeout,
            logging_callback=note_log,
            sampling_callback=sample if model else None,
            elicitation_callback=elicit if form else None,
        ) as conn.session:
            if initialize:
                await conn.session.initialize()
            yield conn


async def hand_shake(session: ClientSession, protocol_version: str) -> str:
    """`initialize` asking for a version of our choice; says which version the server chose."""
    if MAJOR == 1:
        params = types.InitializeRequestParams(
            protocolVersion=protocol_version,
            capabilities=types.ClientCapabilities(),
            clientInfo=types.Implementation(name="interop", version="0"),
        )
        request = types.ClientRequest(types.InitializeRequest(params=params))
        return (await session.send_request(request, types.InitializeResult)).protocolVersion
    params = types.InitializeRequestParams(
        protocol_version=protocol_version,
        capabilities=types.ClientCapabilities(),
        client_info=types.Implementation(name="interop", version="0"),
    )
    request = types.InitializeRequest(params=params)
    return (await session.send_request(request, types.InitializeResult)).protocol_version


def server_of(result) -> tuple:
    """(protocol version, server name, server version) of an initialize result."""
    if MAJOR == 1:
        return result.protocolVersion, result.serverInfo.name, result.serverInfo.version
    return result.protocol_version, result.server_info.name, result.server_info.version


def failed(result) -> bool:
    return result.isError if MAJOR == 1 else result.is_error


def cancelled(request_id) -> object:
    """The notification that takes a request back."""
    method = "notifications/cancelled"
    if MAJOR == 1:
        params = types.CancelledNotificationParams(requestId=request_id)
        return types.ClientNotification(types.CancelledNotification(method=method, params=params))
    params = types.CancelledNotificationParams(request_id=request_id)
    return types.CancelledNotification(method=method, params=params)
