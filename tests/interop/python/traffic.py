"""Calls on sessions of every instance behind a balancer, while one instance is killed.

It prints `ready` when there are two sessions at each instance, and expects the death of the named one.
"""

import anyio
from urllib.parse import parse_qs, urlsplit

from checks import equal, reason, until
from sdk import connect, failed

INSTANCES = 3
EACH = 2
OPENED_MAX = 60
CALLS_AFTERWARDS = 20


class Caller:
    """One session, and what became of its calls."""

    def __init__(self) -> None:
        self.instance = None
        self.calls = 0
        self.fault = None
        self.ended = False
        self.scope = anyio.CancelScope()

    async def run(self, url: str) -> None:
        try:
            with self.scope:
                async with connect(url, read_timeout=15) as conn:
                    # The id of a session begins with its instance.
                    session = parse_qs(urlsplit(conn.endpoint).query)["session_id"][0]
                    self.instance = session.partition(".")[0]
                    while True:
                        result = await conn.session.call_tool("add", {"a": self.calls, "b": 1})
                        equal(failed(result), False, "add failed")
                        equal(result.content[0].text, str(self.calls + 1), "sum")
                        # The answer on the stream may come before that to the post, which is None until then.
                        statuses = {status for _, status in conn.posts}
                        equal(statuses - {202, None}, set(), "statuses of the posts")
                        self.calls += 1
                        await anyio.sleep(0.02)
        except Exception as fault:
            self.fault = reason(fault)
        finally:
            self.ended = True


async def traffic(checks, url, victim):
    callers = []

    def enough():
        found = [caller.instance for caller in callers]
        return len(set(found)) == INSTANCES and all(found.count(name) >= EACH for name in set(found))

    async with anyio.create_task_group() as group:

        async def spread():
            while not enough() and len(callers) < OPENED_MAX:
                caller = Caller()
                callers.append(caller)
                group.start_soon(caller.run, url)
                await until("a session", lambda: caller.instance or caller.fault, seconds=30)
            assert enough(), [caller.instance or caller.fault for caller in callers]
            await until("a call on each", lambda: all(caller.calls > 0 for caller in callers), seconds=30)

        await checks("sessions at each of three instances", spread, seconds=60)
        victims = [caller for caller in callers if caller.instance == victim]
        others = [caller for caller in callers if caller.instance != victim]
        print("ready", flush=True)

        async def victims_fail():
            await until("the end of its sessions", lambda: all(caller.ended for caller in victims), seconds=50)
            assert all(caller.fault for caller in victims), "a session ended without an error"

        async def others_go_on():
            before = [caller.calls for caller in others]

            def went_on():
                return all(
                    caller.ended or caller.calls >= count + CALLS_AFTERWARDS
                    for caller, count in zip(others, before)
                )

            await until("calls afterwards", went_on, seconds=50)
            faults = [f"{caller.instance}: {caller.fault}" for caller in others if caller.ended]
            equal(faults, [], "errors of other sessions")

        await checks("sessions of the killed instance fail", victims_fail, seconds=60)
        await checks("sessions of the others have no error", others_go_on, seconds=60)
        for caller in callers:
            caller.scope.cancel()

    async def new_sessions():
        for _ in range(4):
            async with connect(url) as conn:
                await conn.session.send_ping()
                assert f"session_id={victim}." not in conn.endpoint, "a session at the killed instance"

    await checks("new sessions open at the others", new_sessions, seconds=60)
