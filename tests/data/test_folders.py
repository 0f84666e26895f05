"""Folders of data: what they may name, and that files in them are read as they are alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_rows import on_the_hub

from masa_lightning.data._sources import load_rows

ROW = {"problem": "q", "answer": 12345678901234567890123}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "part").mkdir(parents=True)
    (folder / "train.jsonl").write_text(json.dumps(ROW))
    (folder / "part" / "more.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW))
    secret = tmp_path / "home"
    secret.mkdir()
    (secret / "secret.jsonl").write_text(json.dumps({"problem": "secret", "answer": "1"}))
    return folder


def rows(folder: Path, split: str = "train") -> list[Any]:
    return list(load_rows(str(folder), split, "train", remedy="see `train_split`"))


def named(path: str) -> str:
    return f'configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "{path}"\n'


OUTSIDE = ["../home/secret.jsonl", "part/../../home/secret.jsonl", "{home}/secret.jsonl", "file://{home}/secret.jsonl"]
OUTSIDE += ["http://127.0.0.1:9/secret.jsonl", "hf://datasets/org/name/x.jsonl", "zip://x.jsonl::../home/secret.zip"]
OUTSIDE += ["../**/*.jsonl", "..\\home\\secret.jsonl", "C:\\secret.jsonl"]


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_metadata_that_names_files_elsewhere(folder: Path, path: str, name: str) -> None:
    path = path.format(home=folder.parent / "home")
    text = named(path.replace("\\", "\\\\"))
    (folder / name).write_text(f"---\n{text}---\n# Data\n" if name == "README.md" else text)
    with pytest.raises(ValueError, match=r"`train` is .*its (README.md|.huggingface.yaml) names .*; expected files"):
        rows(folder)


@pytest.mark.parametrize(
    "yaml",
    [
        "configs:\n- config_name: default\n  data_dir: ../home\n",
        'configs:\n- config_name: default\n  data_files: "../home/*.jsonl"\n',
        'configs:\n- config_name: default\n  data_files: {train: ["train.jsonl", "../home/secret.jsonl"]}\n',
    ],
)
def test_other_ways_to_name_them(folder: Path, yaml: str) -> None:
    (folder / "README.md").write_text(f"---\n{yaml}---\n")
    with pytest.raises(ValueError, match=r"its README.md names '\.\./home.*', outside of the folder"):
        rows(folder)


@pytest.mark.parametrize(
    "file",
    ["/home/me/secret.jsonl", "http://127.0.0.1:9/x.jsonl", "hf://datasets/other/name@0f/x.jsonl", "hf://org/name/x"],
)
def test_the_card_of_a_data_set_on_the_hub_that_names_files_elsewhere(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda **kwargs: datasets.Dataset.from_list([ROW | {"answer": "1"}]))
    monkeypatch.setattr(datasets, "load_dataset_builder", on_the_hub())
    assert len(load_rows("org/name", "test", "test", remedy="")) == 1
    monkeypatch.setattr(datasets, "load_dataset_builder", on_the_hub(file))
    with pytest.raises(ValueError, match=r"`test` is 'org/name'.*it names '.*', outside of its repository on the hub"):
        load_rows("org/name", "test", "test", remedy="")


def test_links_that_lead_out(folder: Path) -> None:
    (folder / "train.jsonl").unlink()
    (folder / "train.jsonl").symlink_to(folder.parent / "home" / "secret.jsonl")
    with pytest.raises(
        ValueError, match=r"its file train.jsonl leads to '.*/home/secret.jsonl', outside of the folder"
    ):
        rows(folder)


def test_links_that_stay_inside_and_those_of_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    (folder / "train.jsonl").rename(folder / "part" / "real.txt")
    (folder / "part" / "more.jsonl").unlink()
    (folder / "train.jsonl").symlink_to(folder / "part" / "real.txt")
    assert rows(folder) == [ROW]
    cached = tmp_path / "datasets--org--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "blobs").mkdir()
    (cached / "blobs" / "0f").write_text(json.dumps(ROW))
    (cached / "snapshots" / "abc" / "train.jsonl").symlink_to("../../blobs/0f")
    assert rows(cached / "snapshots" / "abc") == [ROW]


def test_metadata_that_names_files_inside(folder: Path) -> None:
    (folder / "README.md").write_text(
        f"---\nlicense: mit\n{named('part/*.jsonl')}---\n# ../../etc and /etc are but words\n"
    )
    assert rows(folder) == [ROW, ROW]  # and the integer is that of the file
    assert rows(folder, "train[1:]") == [ROW]
    with pytest.raises(ValueError, match=r"Unknown split \"dev\".*see `train_split`"):
        rows(folder, "dev")


def test_metadata_that_is_none(folder: Path) -> None:
    (folder / "part" / "more.jsonl").unlink()
    (folder / "README.md").write_text("# Data\n\nhttps://example.org\n")
    assert rows(folder) == [ROW]
