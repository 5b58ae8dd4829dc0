"""Real servers on stdio behind one `mcp-sse bridge --shared`: `/everything`, `/filesystem` and `/time`,
each with one process for all its sessions.
"""

import json

import anyio
from pydantic import AnyUrl

from checks import equal, until
from sdk import MAJOR, connect, failed, server_of


def at(url: str, name: str) -> str:
    return url.replace("/everything/", f"/{name}/")


async def call(conn, tool: str, **arguments) -> str:
    result = await conn.session.call_tool(tool, arguments)
    equal(failed(result), False, f"{tool} failed")
    return "\n".join(part.text for part in result.content if part.type == "text")


async def names(conn) -> set:
    return {tool.name for tool in (await conn.session.list_tools()).tools}


async def initialize(url):
    for name in ("everything", "filesystem", "time"):
        async with connect(at(url, name), initialize=False) as conn:
            _, server, version = server_of(await conn.session.initialize())
            assert server and version, f"{name} names neither itself nor its version"


async def tools(url):
    async with connect(url) as conn:
        assert {"echo", "get-sum"} <= await names(conn)
        equal(await call(conn, "echo", message="h\u00e9llo \u2028 \U0001f980"), "Echo: h\u00e9llo \u2028 \U0001f980")
        assert " 5" in await call(conn, "get-sum", a=2, b=3)


async def resources(url):
    async with connect(url) as conn:
        listed = (await conn.session.list_resources()).resources
        uris = [str(listed[0].uri), "demo://resource/dynamic/text/1"]
        for uri in uris:
            result = await conn.session.read_resource(AnyUrl(uri) if MAJOR == 1 else uri)
            assert len(result.contents[0].text) > 10, uri


async def prompts(url):
    async with connect(url) as conn:
        listed = {prompt.name for prompt in (await conn.session.list_prompts()).prompts}
        assert {"simple-prompt", "args-prompt"} <= listed, listed
        result = await conn.session.get_prompt("args-prompt", {"city": "Valpara\u00edso"})
        assert "Valpara\u00edso" in result.messages[0].content.text


async def progress(url):
    async def work(conn, steps):
        told = []

        async def note(done, total, _message):
            told.append((done, total))

        arguments = {"duration": 1, "steps": steps}
        tool = "trigger-long-running-operation"
        await conn.session.call_tool(tool, arguments, progress_callback=note)
        await until("progress", lambda: len(told) >= steps)
        equal(told, [(step, steps) for step in range(1, steps + 1)], "progress of one's own")

    async with connect(url) as one, connect(url) as other:
        await one.session.list_tools()  # or the SDK lists them by itself after the call
        await other.session.list_tools()
        async with anyio.create_task_group() as group:
            group.start_soon(work, one, 3)
            group.start_soon(work, other, 4)


async def logging(url):
    async with connect(url) as conn:
        await conn.session.set_logging_level("debug")
        await call(conn, "toggle-simulated-logging")
        await until("a line of the log", lambda: conn.logged, seconds=15)
        await call(conn, "toggle-simulated-logging")


async def nobody_is_asked(url):
    """The shared server is told that its client has no capabilities: it offers no such tools."""
    async with connect(url, model=str.upper, form={"name": "Ann"}) as conn:
        asking = {"trigger-sampling-request", "trigger-elicitation-request"}
        equal(asking & await names(conn), set(), "tools that ask the client")


async def files(url):
    async with connect(at(url, "filesystem")) as conn:
        assert "list_directory" in await names(conn)
        (directory,) = [
            line for line in (await call(conn, "list_allowed_directories")).splitlines() if line.startswith("/")
        ]
        assert "note.txt" in await call(conn, "list_directory", path=directory)
        equal((await call(conn, "read_text_file", path=f"{directory}/note.txt")).strip(), "a note")
        result = await conn.session.call_tool("read_text_file", {"path": "/etc/passwd"})
        equal(failed(result), True, "what is outside is refused")


async def time(url):
    async with connect(at(url, "time")) as conn:
        equal(await names(conn), {"get_current_time", "convert_time"}, "tools")
        now = json.loads(await call(conn, "get_current_time", timezone="UTC"))
        equal(now["timezone"], "UTC", "timezone")


async def sessions(url):
    """Several at once, on the same ids."""

    async def one(number):
        async with connect(url) as conn:
            for count in range(10):
                text = f"session {number}, call {count}"
                equal(await call(conn, "echo", message=text), f"Echo: {text}", "echo")

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, number)


async def shared(checks, url):
    await checks("initialize", initialize, url, seconds=60)
    await checks("tools", tools, url)
    await checks("resources", resources, url)
    await checks("prompts", prompts, url)
    await checks("progress, each its own", progress, url, seconds=30)
    await checks("logging", logging, url, seconds=30)
    await checks("filesystem", files, url)
    await checks("time", time, url)
    await checks("5 sessions at once", sessions, url, seconds=60)
    await checks("nobody is asked", nobody_is_asked, url)
