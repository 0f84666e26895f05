"""Cards as a reader of markdown and the hub's own library see them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from masa_lightning.model_card.card import base_name, write_card
from masa_lightning.model_card.results import read_results

HOSTILE = [
    "`|`` \\| \n\n# no heading\n---\n```\n<script>alert(1)</script> [a](b) *c* {{ d }} : - 'e' \"f\"",
    "---\nlicense: mit\n---",
    "trailing \\",
    "\r\n\u2028\x00 \U0001f600 \ud800",
    "",
]


HOW = {"num_generations": 4, "temperature": 0.5, "max_completion_length": 77}


def checkpoint(**changes: Any) -> dict[str, Any]:
    """What a run on hub names records."""
    module = {
        "class": "MASALightningModule",
        "prompts": {"solution": "S:{problem}", "meta": '{problem} {"pass_rate": 0..{pass_rate_scale}}', "system": None},
        "chat_template_kwargs": {},
        "num_meta_generations": 8,
        "max_completion_length": 64,
        "pass_rate_scale": 8,
        "learning_rate": 1e-6,
        "grader": {"class": "MathGrader", "workers": 2},
        "algorithm": {"loss_type": "gspo"},
        "evaluation": {"num_generations": 4, "temperature": 0.6, "top_p": 0.95, "top_k": 0},
    }
    metrics = {"val/pass@1": 0.51234, "val/pass@1_low": 0.4, "val/pass@1_high": 0.6, "val/maj@4": float("nan")}
    metrics |= {"val/calibration/pass_rate/pearson": 0.71234, "val/meta/parse_rate": 0.98}
    run = {
        "module": module,
        "data": {"class": "MathDataModule", "sources": {"train": ["org/data:main", "train"]}, "batch_size": 16},
        "callbacks": [{"class": "ExpertSFT", "learning_rate": 1e-5}],
        "training_problems": 1000,
        "processes": 8,
        "precision": "bf16-mixed",
        "seed": 3,
        "model_is_local": False,
        "validation": {"rollout_steps": 40, "problems": 256, "metrics": metrics, "settings": HOW},
    }
    saved = {"model": "Qwen/Qwen3-8B-Base", "dtype": "float32", "lora": None, "chat_template": None}
    saved |= {
        "schedules": {"optimizer_steps": 160},
        "rollout_steps": 40,
        "num_tokens": 123456,
        "ledger": {"tokens/meta": 1e6},
    }
    return {**saved, "run": {**run, **changes.pop("run", {})}, **changes}


def results(name: str = "AIME24", **metrics: float | None) -> dict[str, Any]:
    found = {"pass@1": 0.25, "pass@1_low": 0.125, "pass@1_high": 0.375, "maj@8": 0.5} | metrics
    return {
        "model": "/home/someone/model",
        "settings": {"evaluation": {"num_generations": 8}, "max_completion_length": 99},
        "benchmarks": [{"name": name, "problems": 30, "left_out": 1, "metrics": found}],
    }


def written(folder: Path, saved: dict[str, Any], **settings: Any) -> ModelCard:
    write_card(folder, saved, **settings)
    return ModelCard.load(folder / "README.md")


def parsed(card: ModelCard) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(card.text)


def spans(tokens: list[Token], kind: str) -> list[str]:
    return [child.content for token in tokens for child in token.children or [] if child.type == kind]


def tables(tokens: list[Token]) -> list[list[list[str]]]:
    """The cells of each table, as what is read in them."""
    found: list[list[list[str]]] = []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            assert following is not None
            found[-1][-1].append("".join(child.content for child in following.children or []))
    return found


def headings(tokens: list[Token]) -> list[str]:
    return [inner.content for token, inner in pairwise(tokens) if token.type == "heading_open"]


def test_metadata(tmp_path: Path) -> None:
    data = written(tmp_path, checkpoint(), results=[results()]).data
    assert data.base_model == "Qwen/Qwen3-8B-Base"
    assert data.datasets == "org/data"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["masa_lightning", "masa", "reinforcement-learning", "arxiv:2402.03300", "arxiv:2510.03259"]
    assert data.model_name == tmp_path.name
    scores = [(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results]
    assert scores == [("validation", "pass@1", 0.51234), ("AIME24", "pass@1", 0.25), ("AIME24", "maj@8", 0.5)]


def test_figures(tmp_path: Path) -> None:
    metrics: dict[str, Any] = {"calibration/pass_rate/pearson": 0.25, "calibration/pass_rate/mae": None}
    card = written(tmp_path, checkpoint(), results=[results(**metrics)])
    tokens = parsed(card)
    assert (
        "`AIME24`: `masa test` of the model `model`, `8` solutions a problem, at most `99` tokens a solution."
        in card.text
    )
    # As the validation's own record says, and not as settings were when the checkpoint was written.
    how = "`4` solutions a problem, temperature `0.5`, at most `77` tokens a solution"
    assert f"`validation` is the last one of the run, with the weights here: {how}." in card.text
    assert "means over `256` (`validation`), `30` (`AIME24`) problems" in card.text
    *_, scores, calibration = tables(tokens)
    assert scores[1] == ["validation", "256", "0.5123 [0.4, 0.6]", "-", "-", "-"]
    assert scores[0] == ["", "problems", "pass@1", "maj@4", "maj@8", "tokens a solution"]
    assert scores[2] == ["AIME24", "30 (1 left out)", "0.25 [0.125, 0.375]", "-", "0.5", "-"]
    assert calibration[1:] == [["calibration/pass_rate/pearson", "0.7123", "0.25"], ["meta/parse_rate", "0.98", "-"]]
    settings = {row[0]: row[1] for table in tables(tokens)[:-2] for row in table}
    assert settings["learning rate"] == "1e-06"
    assert settings["objective"] == "gspo"
    assert settings["problems a step"] == "128"
    assert settings["training data"] == "org/data"
    assert "decided from final answers" in card.text and "(`MathGrader`)" in card.text
    assert "fine-tuned on its own best predictions" in card.text


def test_all_settings_are_in_a_file_beside_the_card(tmp_path: Path) -> None:
    saved = checkpoint()
    saved["run"]["module"] |= {
        "clip": float("inf"),
        "unset": None,
        "last_validation": {"a": 1},
        "rollout_steps": 4,
        "text": "\ud800",
        "engine_kwargs": {"hf_token": "hf_abc"},  # of an earlier version, which recorded it
    }
    card = written(tmp_path, saved)
    assert "[`training_settings.json`](training_settings.json)" in card.text
    found = json.loads((tmp_path / "training_settings.json").read_text(encoding="utf-8"))
    module = saved["run"]["module"]
    assert found["module"].pop("clip") == "inf"
    assert found["module"] == {
        n: v
        for n, v in module.items()
        if n not in ("clip", "unset", "last_validation", "rollout_steps", "engine_kwargs")
    } | {"engine_kwargs": {}}
    assert found["data"] == saved["run"]["data"]
    assert found["callbacks"] == saved["run"]["callbacks"]
    assert found["tokens"] == saved["ledger"]
    assert len(tables(parsed(card))[0]) < 30  # of the 60 settings of a run


def test_the_template_says_what_a_reader_looks_for(tmp_path: Path) -> None:
    card = written(tmp_path, checkpoint(run={"versions": {"torch": "2.13.0", "<b>": "1"}}))
    assert headings(parsed(card)) == [
        f"`{tmp_path.name}`", "How to use it", "Training", "Results", "Calibration", "Limitations", "Citation"
    ]  # fmt: skip
    assert 'Trained with `torch` `2.13.0`, `"<b>"` `1`.' in card.text
    assert "MASA (" in card.text and "{2510.03259}" in card.text and "{2402.03300}" in card.text
    assert not {"{{", "{%", "{#", "Undefined", "None"} & set(card.text.split())


def test_before_and_after(tmp_path: Path) -> None:
    first = {"rollout_steps": 0, "problems": 256, "measured": "a", "metrics": {"val/pass@1": 0.125}}
    last = {"rollout_steps": 40, "problems": 256, "measured": "a", "metrics": {"val/pass@1": 0.5}}
    card = written(tmp_path, checkpoint(run={"first_validation": first, "validation": last}))
    rows = tables(parsed(card))[-1][1:]
    assert [(row[0], row[2]) for row in rows] == [("validation before training", "0.125"), ("validation", "0.5")]
    assert [r.metric_value for r in card.data.eval_results] == [0.5]
    other = written(tmp_path, checkpoint(run={"first_validation": first | {"measured": "b"}, "validation": last}))
    assert "before training" not in other.text  # other problems, or asked in another way


def test_figures_of_earlier_weights_say_so(tmp_path: Path) -> None:
    card = written(tmp_path, checkpoint(rollout_steps=44))
    assert "the weights after step `40` of `44`, not those here" in card.text
    assert card.data.eval_results is None


def test_grpo(tmp_path: Path) -> None:
    saved = checkpoint()
    saved["run"]["module"]["num_meta_generations"] = 0
    card = written(tmp_path, saved)
    assert card.data.tags == ["masa_lightning", "grpo", "reinforcement-learning", "arxiv:2402.03300"]
    assert "MASA (" not in card.text
    assert "It was not trained to predict." in card.text
    assert "META" not in card.text


def test_adapters(tmp_path: Path) -> None:
    lora = {"rank": 20, "alpha": 32, "targets": "all-linear"}
    card = written(tmp_path, checkpoint(lora=lora), adapter=True)
    assert card.data.library_name == "peft"
    assert "lora" in card.data.tags
    assert card.text.count("LoRARequest('masa', 1, MODEL)") == 1
    assert "max_lora_rank=32)" in card.text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_the_card(tmp_path: Path, text: str) -> None:
    def fill(value: Any) -> Any:
        """Puts the text wherever a user may have one."""
        if isinstance(value, dict):
            return {k if k != "learning_rate" else text: fill(v) for k, v in value.items()}
        return [text] if isinstance(value, list) else text if isinstance(value, str) else value

    plain = parsed(written(tmp_path, checkpoint(), results=[results()]))
    citations = [t.content for t in plain if t.type == "fence" and t.info != "python"]
    saved = checkpoint(model=text or "a\nb|`c")
    saved["run"] = {n: fill(v) if n not in ("validation", "callbacks") else v for n, v in saved["run"].items()}
    prompts = {"solution": f"{text}{{problem}}{text}", "meta": f"{text}{{problem}}", "system": text}
    saved["run"]["module"]["prompts"] = prompts
    card = written(tmp_path, saved, results=[results(text)])
    tokens = parsed(card)
    assert headings(tokens) == headings(plain)
    assert not {"html_block", "hr", "html_inline"} & {t.type for t in tokens}
    assert not spans(tokens, "html_inline") and not spans(tokens, "image")
    links = [child.attrs["href"] for t in tokens for child in t.children or [] if child.type == "link_open"]
    assert all(str(link).startswith(("https://arxiv.org/abs/", "training_settings.json")) for link in links)
    assert all(len(row) == len(table[0]) for table in tables(tokens) for row in table)
    assert len(tables(tokens)) == len(tables(plain))
    assert [t.content for t in tokens if t.type == "fence" and t.info != "python"] == citations
    code = [t for t in tokens if t.type == "fence" and t.info == "python"]
    assert len(code) == 3
    names: dict[str, Any] = {}
    exec(code[0].content, names)
    assert names["chat"](names["SOLUTION"], "1+1") == [
        {"role": "system", "content": text},
        {"role": "user", "content": f"{text}1+1{text}"},
    ]
    for block in code[1:]:
        compile(block.content, "card", "exec")
    assert card.data.base_model is None
    assert card.data.license is None
    assert card.data.eval_results[-1].dataset_name.encode("utf-8", "backslashreplace") == text.encode(
        "utf-8", "backslashreplace"
    )


@pytest.mark.parametrize("place", ["/home/me/secret/last", "~/secret/last", "../secret/last", "C:\\secret\\last"])
def test_folders_of_this_machine_stay_here(tmp_path: Path, place: str) -> None:
    saved = checkpoint(
        model=place, run={"data": {"class": "Mine", "sources": {"test": [place, "test"]}, "file": place}}
    )
    saved["run"]["module"]["some_file"] = place
    saved["run"]["callbacks"][0]["dirpath"] = place
    card = written(tmp_path, saved, results=[results()])
    assert "secret" not in card.content
    assert "secret" not in (tmp_path / "training_settings.json").read_text()
    assert "/home" not in (tmp_path / "training_settings.json").read_text()
    assert str(tmp_path.parent) not in card.content
    assert "/home" not in card.content
    assert "local folder `last`" in card.text
    assert card.data.base_model is None


def test_what_an_early_checkpoint_does_not_say_is_left_out(tmp_path: Path) -> None:
    card = written(tmp_path, {"model": "tiny", "dtype": "float32", "lora": None, "chat_template": None})
    assert headings(parsed(card)) == [f"`{tmp_path.name}`", "Training", "Limitations", "Citation"]
    assert "No evaluation is recorded here" in card.text
    assert card.data.eval_results is None


def test_base_model(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    local = str(tmp_path / "base")
    assert base_name({"model": "gpt2"}) == ("gpt2", True)
    assert base_name({"model": "tiny"}) == ("tiny", False)
    assert base_name({"model": local}) == ("base", False)
    assert base_name({"model": "models/base", "run": {"model_is_local": True}}) == ("base", False)
    assert base_name({"model": "org/base"}, local) == ("org/base", True)
    assert base_name({"model": local}, "org/base") == ("org/base", True)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"benchmarks": [{"name": 1}]}', '{"benchmarks": [{"name": "a"}]}', "\xff"]
)
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"results\.json' holds no benchmarks; expected the results\.json that"):
        read_results([tmp_path / "results.json"])
    with pytest.raises(FileNotFoundError, match="is no file; expected the results"):
        read_results([tmp_path / "none.json"])


def test_results_are_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results()))
    assert read_results([tmp_path / "results.json"]) == [results()]
