"""Runs coroutines beside the main thread, which goes on and stays open to signals."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, wait
from contextlib import suppress
from typing import Any, Final, Self, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_GLANCE: Final = 0.2  # seconds between two looks at how far they are
_PATIENCE: Final = 60.0  # seconds in which a loop that works runs what it was asked to
_ENDED: Final = (
    "the event loop of reward functions has ended: one of them stopped it, or a task of one raised SystemExit; expected "
    "functions that raise errors of their own, and leave the loop running"
)


class _Loop:
    """An event loop in a thread that does not keep the process alive.

    There is one for all, as long as the process lives: clients of servers belong to the loop in which they were first used.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ended = False
        self.futures: WeakSet[Future[Any]] = WeakSet()
        """Of what was started in it."""
        self._seen = time.monotonic()
        self._asked = self._warned = False
        threading.Thread(target=self._run, name="reward-functions", daemon=True).start()

    def _run(self) -> None:
        with suppress(SystemExit, KeyboardInterrupt):  # of a task of a function
            self.loop.run_forever()
        self.ended = True  # which only a function of the user brings about
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(10):  # from a task to those that wait for it; what goes on regardless is left
            self.loop.call_soon(self.loop.stop)
            with suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()
        self.loop.close()
        for future in [*self.futures]:  # of those that go on regardless, which nobody would end
            with suppress(InvalidStateError):
                future.set_exception(RuntimeError(_ENDED))

    def check(self) -> None:
        """Looks whether the loop runs.

        Raises:
            RuntimeError: If a function has ended it: nothing in it will ever be done.
        """
        if self.ended:
            raise RuntimeError(_ENDED)
        now = time.monotonic()
        if not self._asked:
            self._asked, self._seen = True, now
            self.loop.call_soon_threadsafe(self._answer)
        elif now - self._seen > _PATIENCE and not self._warned:
            self._warned = True
            warnings.warn(
                f"an `async def` reward function has blocked its event loop for {_PATIENCE:g} seconds, so no other call "
                "goes on and no timeout works; expected one that awaits what takes long (an async client). A plain "
                "function, which RemoteReward calls in a thread, may block",
                stacklevel=2,
            )

    def _answer(self) -> None:
        self._asked = False


_LOOPS: Final[dict[int, _Loop]] = {}


def _loop() -> _Loop:
    """The loop of this process; another one after a fork, or where the last one has ended."""
    process = os.getpid()
    if process not in _LOOPS or _LOOPS[process].ended:
        _LOOPS[process] = _Loop()
    return _LOOPS[process]


class Background:
    """Coroutines that run while its body goes on; those that are not done at its end are cancelled.

    >>> async def later(): return 3
    >>> with Background() as background:
    ...     future = background.start(later())
    ...     future.result()
    3
    """

    def __init__(self) -> None:
        self._loop: _Loop | None = None
        self._futures: list[Future[Any]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts one."""
        self._loop = self._loop or _loop()
        tracked = self._tracked(coroutine)
        try:
            future = asyncio.run_coroutine_threadsafe(tracked, self._loop.loop)
        except RuntimeError as error:  # it is closed
            tracked.close()
            coroutine.close()
            raise RuntimeError(_ENDED) from error
        self._loop.futures.add(future)
        self._futures.append(future)
        return future

    def result(self, future: Future[T]) -> T:
        """Waits for one of them, and returns what it gave.

        Raises:
            Exception: Its own.
            RuntimeError: If it was cancelled, or one has ended the loop.
        """
        while True:
            wait({future}, timeout=_GLANCE)
            if not future.done() and self._loop is not None:
                self._loop.check()
                continue
            if not future.cancelled():
                return future.result()
            if self._loop is not None:
                self._loop.check()
            raise RuntimeError(
                "a call of a reward function was cancelled, and not by this run; expected functions that cancel no tasks "
                "but those that they began"
            )

    def wait(self, glance: Callable[[], None]) -> None:
        """Waits until all are done, or one has failed.

        Args:
            glance: Called every now and then, and at the end.

        Raises:
            Exception: That of the one that failed.
            RuntimeError: If one has ended the loop that all run in.
        """
        running = set(self._futures)
        while running:
            done, running = wait(running, timeout=_GLANCE, return_when=FIRST_EXCEPTION)
            for future in done:
                self.result(future)
            glance()
            if running and self._loop is not None:
                self._loop.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels those that are not done."""
        self._closed = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended, and all in it
                self._loop.loop.call_soon_threadsafe(self._cancel)

    async def _tracked(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine, which is known before it begins: an interrupt may come before `start` returns."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if self._closed:
            coroutine.close()
            raise asyncio.CancelledError
        return await coroutine

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
