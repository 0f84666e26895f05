"""A reward that is asked of a server, an LLM judge say: so many at once, with a limit on time, and again where it failed."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import warnings
from collections.abc import Callable
from typing import Any, Final

from masa_lightning.checks import check_number
from masa_lightning.protocols import RewardFunction
from masa_lightning.rewards.asked import read_signature
from masa_lightning.rewards.names import own_name
from masa_lightning.rewards.values import read_reward, read_rewards, shown

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds between two tries


class RemoteReward:
    """Calls a reward function that asks a server, and answers for its failures.

    A try fails if the function raises an error, takes too long, or gives anything but finite numbers, as many as it should.
    The next one comes after 1, 2, 4, ... seconds, at most 30, less up to half of that by chance.
    ``rewards/NAME/failed_ratio`` is the share of calls of which all tries failed.

    Args:
        function: As any of `reward_functions`; best one for one completion. A plain function runs in a thread, where it is
            left behind if it takes too long: its own requests should have a limit on time too.
        max_concurrent: Most calls at a time in each process, >= 1.
        timeout: Of one try, seconds, > 0.
        max_retries: Further tries of a call that failed, >= 0.
        on_failure: Reward of each completion of a call of which all tries failed; None stops the run.

    Raises:
        TypeError: If the function is none, or requires what there is not.
        ValueError: If a setting is out of range.

    >>> RemoteReward(lambda problem, completion: 1.0, timeout=5).__name__
    'lambda'
    """

    def __init__(
        self,
        function: RewardFunction,
        *,
        max_concurrent: int = 16,
        timeout: float = 60.0,
        max_retries: int = 2,
        on_failure: float | None = None,
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"function is {shown(function)}; expected a reward function")
        check_number("max_concurrent", max_concurrent, ">= 1", whole=True)
        check_number("timeout", timeout, "> 0", note="(seconds)")
        check_number("max_retries", max_retries, ">= 0", whole=True)
        if on_failure is not None:
            check_number("on_failure", on_failure, "", note="(None stops the run)")
        self.function, self.max_concurrent, self.timeout = function, max_concurrent, timeout
        self.max_retries, self.on_failure = max_retries, on_failure
        self.__name__ = own_name(function)
        self._asked = read_signature(function, f"the reward function {self.__name__!r}")
        # What it asks for itself, with a default where the function has one.
        names, empty = dict.fromkeys([*self._asked.names, "log_metric"]), inspect.Parameter.empty
        defaults = {name: empty if name in self._asked.required else None for name in names}
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=value) for n, value in defaults.items()]
        )
        self._at_once = asyncio.Semaphore(max_concurrent)
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which do not share the limit."""
        return {name: value for name, value in vars(self).items() if name != "_at_once"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._at_once = asyncio.Semaphore(self.max_concurrent)

    async def __call__(self, **given: Any) -> Any:
        """Calls the function with what it asks for.

        Raises:
            Exception: That of the last try, if all failed and `on_failure` is None.
        """
        asked = {name: given[name] for name in self._asked.names}
        one = self._asked.form == "completion"
        count = 1 if one else max(len(value) for value in asked.values() if isinstance(value, list))
        failed = False
        async with self._at_once:
            try:
                values = await self._until_it_succeeds(asked, count)
            except Exception as error:
                if self.on_failure is None:
                    tries = "1 try" if not self.max_retries else f"{1 + self.max_retries} tries"
                    error.add_note(f"after {tries}; with on_failure=0.0 RemoteReward would count it as 0")
                    raise
                self._warn(error)
                failed, values = True, [self.on_failure] * count
        given["log_metric"]("failed_ratio", failed)
        return values[0] if one else values

    async def _until_it_succeeds(self, asked: dict[str, Any], count: int) -> list[float]:
        longest = _FIRST_WAIT
        for _ in range(self.max_retries):
            try:
                return await self._try(asked, count)
            except Exception:  # the last try's is told
                await asyncio.sleep(longest * _CHANCE.uniform(0.5, 1.0))
                longest = min(2 * longest, _LONGEST_WAIT)
        return await self._try(asked, count)

    async def _try(self, asked: dict[str, Any], count: int) -> list[float]:
        own: dict[str, Any] = {name: [*value] if isinstance(value, list) else value for name, value in asked.items()}
        late = False
        if log_metric := asked.get("log_metric"):
            own["log_metric"] = lambda name, value: None if late else log_metric(name, value)
        answer = asyncio.ensure_future(self._answer(own))
        answer.add_done_callback(_look)
        try:
            await asyncio.wait({answer}, timeout=self.timeout)
        finally:
            late = answer.cancel()  # and nobody waits for it: it may go on regardless
        if late:
            raise TimeoutError(f"no answer within {self.timeout:g} seconds")
        if answer.cancelled():
            raise RuntimeError("it cancelled itself")
        given = answer.result()
        if self._asked.form == "completion":
            return [read_reward(given, "it", "of this call")]
        return read_rewards(given, count, "it", "of this call")

    async def _answer(self, asked: dict[str, Any]) -> Any:
        try:
            given = await (self.function(**asked) if self._asked.is_async else _in_thread(self.function, asked))
            return await given if inspect.isawaitable(given) else given  # of a plain function around an async one
        except (SystemExit, KeyboardInterrupt, StopIteration) as error:  # which would end more than this call
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"a call of the reward function {self.__name__!r} failed with {type(error).__name__}: {error}; it counts as "
                f"{self.on_failure:g}, as on_failure says. The share of calls that fail is logged as failed_ratio",
                stacklevel=1,
            )


_CHANCE: Final = random.Random()  # of its own: the draws of a run do not depend on failures


def _look(answer: asyncio.Future[Any]) -> None:
    """Takes note of an error that comes too late, of which asyncio would complain else."""
    if not answer.cancelled():
        answer.exception()


async def _in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Calls a function in a thread of its own, which does not keep the process alive."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(settled: Callable[[Any], None], value: Any) -> None:
        if not answer.done():  # nobody waits any more
            settled(value)

    def call() -> None:
        try:
            given = function(**arguments)
        except BaseException as error:
            if isinstance(error, StopIteration) or not isinstance(error, Exception):  # what no future takes
                error = RuntimeError(f"{type(error).__name__}: {error}")
            loop.call_soon_threadsafe(settle, answer.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, answer.set_result, given)

    threading.Thread(target=call, name="reward-function", daemon=True).start()
    return await answer
