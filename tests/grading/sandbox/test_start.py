import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import sandboxed

from masa_lightning.grading.sandbox.bubblewrap import SCRATCH, bubblewrap_binary
from masa_lightning.grading.sandbox.start import ENVIRONMENT, MEMORY, compiled, kill, start


def run(tmp_path, code, message="", seconds=20.0, **options):
    """What a script in a sandbox prints, its complaints and its exit status."""
    script = tmp_path / "script.py"
    script.write_text(code)
    process = start(script, message, seconds=seconds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options)
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        kill(process)
    return output.decode(), errors.decode(), process.returncode


@sandboxed
def test_script_gets_its_message_and_the_packages(tmp_path):
    code = "import sys, json\nprint(json.dumps([message, __name__, sys.argv, sys.flags.no_site]))\nimport packaging"
    output, errors, status = run(tmp_path, code, message="é" * 100_000)
    assert (errors, status) == ("", 0)
    assert json.loads(output) == ["é" * 100_000, "__main__", ["/script.py"], 1]


@sandboxed
def test_script_imports_what_was_compiled_for_it_and_no_more_of_this_package(tmp_path):
    modules = compiled(["masa_lightning.grading.programs.values"])
    code = """
import sys
from masa_lightning.grading.programs.values import encode
print(encode(b"b", None), sorted({"datetime", "decimal", "fractions", "importlib"} & sys.modules.keys()))
import masa_lightning.types
"""
    output, errors, status = run(tmp_path, code, modules=modules)
    assert output == "{'bytes': '62'} []\n"  # what takes long to load is not, where nobody uses it
    assert "No module named 'masa_lightning.types'" in errors and status == 1


@sandboxed
def test_script_inherits_three_descriptors_and_no_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("MASA_SECRET", "1")
    with open(__file__) as file:
        os.set_inheritable(file.fileno(), True)
        code = """
import os, json
numbers = []
for number in range(64):
    try:
        os.fstat(number)
        numbers.append(number)
    except OSError:
        pass
print(json.dumps([numbers, dict(os.environ)]))
"""
        output, _, _ = run(tmp_path, code)
    descriptors, variables = json.loads(output)
    assert descriptors == [0, 1, 2]
    assert variables.keys() <= ENVIRONMENT.keys() | {"PWD", "LC_CTYPE"}


@sandboxed
def test_script_sees_libraries_and_no_more(tmp_path):
    output, _, _ = run(
        tmp_path, "import os, json\nprint(json.dumps([os.listdir('/'), os.listdir('/dev'), os.listdir('/tmp')]))"
    )
    root, devices, scratch = json.loads(output)
    places = {Path(path).parts[1] for path in (sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix))}
    assert (
        set(root)
        <= {"usr", "bin", "lib", "lib32", "lib64", "libx32", "etc", "dev", "tmp", "script.py", "inside.py"} | places
    )
    assert sorted(devices) == ["fd", "null", "stdin", "stdout", "urandom"]  # three of them lead to files in /tmp
    # Where Python lies in /tmp, the way to it is there.
    prefixes = [Path(path).parts for path in (sys.prefix, sys.base_prefix)]
    assert {*scratch} <= {parts[2] for parts in prefixes if parts[1] == "tmp"}


@sandboxed
def test_limits_cannot_be_raised(tmp_path):
    code = """
import json
import resource as r
print(json.dumps({name: r.getrlimit(getattr(r, name)) for name in dir(r) if name.startswith("RLIMIT")}))
"""
    limits = json.loads(run(tmp_path, code, seconds=2.5)[0])
    expected = {
        "NPROC": 0,
        "AS": MEMORY,
        "CPU": 3,
        "FSIZE": SCRATCH,
        "NOFILE": 64,
        "CORE": 0,
        "MSGQUEUE": 0,
    }
    for name, limit in expected.items():
        assert limits[f"RLIMIT_{name}"] == [limit, limit]


@sandboxed
def test_processor_time_ends(tmp_path):
    assert run(tmp_path, "while True: pass", seconds=1.0)[2] != 0


@sandboxed
def test_kill_ends_at_once_and_can_be_repeated(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; print('here', flush=True); time.sleep(600)")
    process = start(script, "", seconds=1.0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"here\n"
    kill(process)
    kill(process)
    assert process.returncode == -9 and process.stdout.closed


@sandboxed
def test_sandbox_ends_though_its_parent_died_before_bubblewrap_was_tied_to_it(tmp_path):
    slow, ran = tmp_path / "bwrap", tmp_path / "script.py"
    slow.write_text(f'#!/bin/sh\nread line\nexec {bubblewrap_binary()} "$@"\n')  # goes on after its parent's death
    slow.chmod(0o755)
    ran.write_text("print('it ran')")
    code = """
import os, subprocess, sys
from pathlib import Path
from masa_lightning.grading.sandbox.start import start
start(Path(sys.argv[1]), "", seconds=20, stdin=0, stdout=1, stderr=2)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, str(ran)], env=environment, **pipes) as parent:
        assert parent.wait(60) == -9
        output, errors = parent.communicate(b"go on\n", timeout=60)  # until the sandbox has let go of both
    assert (output, errors) == (b"", b"")


@sandboxed
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_sandboxes_of_forked_processes_are_their_own_and_other_files_stay_open(tmp_path):
    def generation(number):
        """Runs a sandbox, opens files where closed ones were, forks, and says whether all that went well there too."""
        if run(tmp_path, f"print({number})")[0] != f"{number}\n":
            return 1
        pipes = [os.pipe() for _ in range(8)]
        child = os.fork() if number < 3 else None
        if child == 0:
            with contextlib.suppress(BaseException):
                for end in (end for pipe in pipes for end in pipe):
                    os.fstat(end)
                os._exit(generation(number + 1))
            os._exit(2)
        for end in (end for pipe in pipes for end in pipe):
            os.close(end)
        return 0 if child is None else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert generation(0) == 0
    assert run(tmp_path, "print(4)")[0] == "4\n"
