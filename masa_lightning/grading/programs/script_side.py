"""The side of a program that reads standard input and prints: each input is a run in a process of its own.

A server that runs nothing of the program's forks for each run, and clears away the files of the run before. So nothing
that a run leaves in modules, files or memory reaches the next.
"""

from __future__ import annotations

import ast
import atexit
import gc
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import BinaryIO, Final, NoReturn

from masa_lightning.grading.programs.program_side import Link, give_exits
from masa_lightning.grading.programs.syntax import walk
from masa_lightning.grading.programs.values import MAX_LINE, write_line

_FOLDER: Final = "/tmp"
_PRINTING: Final = {"this", "antigravity"}  # modules that do something when they are imported
_exit = os._exit


def run_script(program: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Runs a program anew for each input that the tests' side sends."""
    write_line(replies, "started")
    link = Link({}, requests, replies)
    kept = _paths(_FOLDER)  # an environment may lie there
    give_exits()
    _make_harmless()
    _limit_processes(0)
    _import_packages(program)
    gc.collect()
    gc.freeze()  # what is here is not copied for a run by looking for garbage in it

    def leave() -> None:
        os.close(requests.fileno())
        os.close(replies.fileno())

    def run(text: str) -> str:
        _clear(_FOLDER, kept)
        return _output(program, text, leave)

    link.operations["run"] = run
    link.serve()


def _output(program: str, text: str, leave: Callable[[], None]) -> str:
    """Returns what a program writes to standard output, given a text as its standard input.

    Raises:
        RuntimeError: If it ends with an error.
    """
    with open(f"{_FOLDER}/.stdin", "wb+") as given, open(f"{_FOLDER}/.stdout", "wb+", buffering=0) as written:
        given.write(text.encode("utf-8", "surrogatepass"))
        given.seek(0)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        _limit_processes(hard)
        child = os.fork()
        if not child:
            status = 1
            try:
                resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # for good
                leave()
                os.dup2(given.fileno(), 0)  # files, for programs that read and write by number
                os.dup2(written.fileno(), 1)
                _run(program)
                status = 0
            finally:
                _exit(status)
        _limit_processes(0)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("the program ended with an error")
        return os.pread(written.fileno(), MAX_LINE, 0).decode("utf-8", "replace")


def _run(program: str) -> None:
    """Runs a program to its end, and all that it has to write is written."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogatepass", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__ = sys.stdin, sys.stdout  # type: ignore[misc]  # or they close when they are replaced
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        pass  # a usual way to end, with what was written so far
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            with suppress(OSError, ValueError):  # it may have closed it
                stream.flush()
        module.__dict__.clear()
        gc.collect()  # its files are written


def _limit_processes(soft: int) -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, resource.getrlimit(resource.RLIMIT_NPROC)[1]))


def _import_packages(program: str) -> None:
    """Imports what a program imports once for all its runs: numpy takes longer than many a run."""
    with suppress(Exception):  # which the runs then meet
        for node in walk(ast.parse(program)):
            match node:
                case ast.Import(names=aliases):
                    names = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(name), level=0):
                    names = [name]
                case _:
                    continue
            for name in {*names} - _PRINTING:
                with suppress(Exception):
                    __import__(name)


def _paths(folder: str) -> frozenset[str]:
    """Returns all that lies in a folder, but not what is mounted there."""
    device, found = os.stat(folder).st_dev, set()
    for where, names, files in os.walk(folder):
        names[:] = [name for name in names if os.lstat(f"{where}/{name}").st_dev == device]
        found |= {f"{where}/{name}" for name in (*names, *files)}
    return frozenset(found)


def _clear(folder: str, kept: frozenset[str]) -> None:
    """Removes all that a run has put into a folder; raises what keeps it from that."""
    device = os.stat(folder).st_dev
    for entry in [*os.scandir(folder)]:
        if not entry.is_dir(follow_symlinks=False):
            if entry.path not in kept:
                os.unlink(entry.path)
        elif entry.stat(follow_symlinks=False).st_dev == device:
            if entry.path not in kept:
                os.chmod(entry.path, 0o700)
            _clear(entry.path, kept)
            if entry.path not in kept:
                os.rmdir(entry.path)


def _make_harmless() -> None:
    """Makes two habits of competition programs work: a thread with a big stack, and an exit without clearing up."""
    import threading

    def leave(code: int = 0) -> NoReturn:
        raise SystemExit(code)

    os._exit = leave  # type: ignore[assignment]
    threading.Thread.start = threading.Thread.run  # type: ignore[method-assign]  # threads cannot be started
    threading.Thread.join = lambda self, timeout=None: None  # type: ignore[method-assign]
