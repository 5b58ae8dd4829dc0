"""One line per check: `ok   who: name` or `FAIL who: name: why`. No check waits for ever."""

import traceback

import anyio


class Checks:
    def __init__(self, who: str) -> None:
        self.who = who
        self.failed = 0

    async def __call__(self, name, step, *args, seconds: float = 20) -> None:
        try:
            with anyio.fail_after(seconds):
                await step(*args)
        except Exception as fault:
            self.failed += 1
            traceback.print_exc()
            print(f"FAIL {self.who}: {name}: {reason(fault)}", flush=True)
        else:
            print(f"ok   {self.who}: {name}", flush=True)


def reason(fault: BaseException) -> str:
    """The innermost faults on one line: the SDK wraps most things in task groups."""
    if isinstance(fault, BaseExceptionGroup):
        return "; ".join(reason(inner) for inner in fault.exceptions)
    text = " ".join(str(fault).split())[:300]
    return f"{type(fault).__name__}: {text}" if text else type(fault).__name__


def equal(got, expected, what: str = "value") -> None:
    if got != expected:
        raise AssertionError(f"{what}: got {short(got)}, expected {short(expected)}")


def short(value) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


async def until(what: str, condition, seconds: float = 5) -> None:
    """Waits until the condition holds; the condition may be a coroutine function."""
    with anyio.move_on_after(seconds):
        while True:
            holds = condition()
            if hasattr(holds, "__await__"):
                holds = await holds
            if holds:
                return
            await anyio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")
