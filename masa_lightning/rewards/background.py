"""Runs coroutines beside the main thread, which goes on and stays open to signals."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import cache
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

_GLANCE: Final = 0.2  # seconds between two looks at how far they are


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of a process, in a thread that does not keep it alive.

    There is one for all, as long as the process lives: clients of servers belong to the loop in which they were first used.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward-functions", daemon=True).start()
    return loop


class Background:
    """Coroutines that run while its body goes on; those that are not done at its end are cancelled.

    >>> async def later(): return 3
    >>> with Background() as background:
    ...     future = background.start(later())
    ...     future.result()
    3
    """

    def __init__(self) -> None:
        self._futures: list[Future[Any]] = []

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts one."""
        future = asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid()))  # another one after a fork
        self._futures.append(future)
        return future

    def wait(self, glance: Callable[[], None]) -> None:
        """Waits until all are done, or one has failed.

        Args:
            glance: Called every now and then, and at the end.

        Raises:
            Exception: That of the one that failed.
        """
        running = set(self._futures)
        while running:
            done, running = wait(running, timeout=_GLANCE, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            glance()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._futures:
            future.cancel()
