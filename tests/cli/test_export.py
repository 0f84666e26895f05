"""`masa export` as it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from masa_lightning.cli import main

_AT_ONCE = """
import sys
from masa_lightning.cli import main
try:
    main(["export", *sys.argv[1:]])
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["no/run", "out"],
            "checkpoint 'no/run' is neither a file nor a folder with shards; expected what ModelCheckpoint",
        ),
        (["empty", "out"], "there is no checkpoint in empty nor in empty/checkpoints; expected the folder of a run"),
        (["file.ckpt", "file.ckpt"], "'file.ckpt' is a file; expected a folder to write to"),
        (["file.ckpt", "out", "--results", "no.json"], "results 'no.json' is no file; expected the results.json"),
        (["file.ckpt", "out", "--results", "file.ckpt"], "results 'file.ckpt' holds no benchmarks"),
        (["file.ckpt", "out", "--results", "none.json"], "results 'none.json' holds no benchmarks"),
        (
            ["file.ckpt", "out"],
            "error: checkpoint 'file.ckpt' is no checkpoint: its 2 bytes are no whole archive of torch.save; expected",
        ),
        (["file.ckpt"], "the following arguments are required: OUT_DIR"),
        (["file.ckpt", "out", "--adapters", "x"], "unrecognized arguments: --adapters x"),
        (["--ckpt_path", "file.ckpt"], "expected the checkpoint first: masa export RUN OUT_DIR"),
        (["file.ckpt", "out", "--adapt"], "unrecognized arguments: --adapt"),
    ],
)
def test_a_wrong_argument(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.ckpt").write_text("{}")
    Path("none.json").write_text('{"benchmarks": []}')
    with pytest.raises(SystemExit, match="2"):
        main(["export", *words])
    assert said in capsys.readouterr().err


def test_it_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (["no/run", "out"], ["empty", "out"], ["x"]):
        done = subprocess.run([sys.executable, "-c", _AT_ONCE, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == "2 False", done.stderr
