"""Every benchmark from rows as the hub has them and as files have them."""

import functools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_rows import HUB, LOGIC, LOGIC_TEXT, MBPP_TEXT, TOLD, choice, gpqa, math_problem, on_the_hub
from lightning.pytorch import Trainer

from masa_lightning import cli
from masa_lightning.data._benchmarks import BENCHMARKS
from masa_lightning.data.benchmarks import BenchmarkDataModule
from masa_lightning.grading.programs import launch
from masa_lightning.grading.sandbox import check as sandbox
from masa_lightning.types import CodeAnswer, NumberAnswer, Problem

datasets = pytest.importorskip("datasets")

# From Lightning 2.6 with torch 2.13, on every loader.
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")


@pytest.fixture(autouse=True)
def sandboxes_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache of its own, and a machine where programs can be run: one entry for each time this was asked."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # It would tell the hub, for local files too.
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    calls: list[str] = []
    monkeypatch.setattr(sandbox, "check_sandbox", lambda: calls.append("checked"))
    monkeypatch.setattr(launch, "why_unusable", lambda tests: [""] * len(tests))  # which needs a real one
    return calls


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def read(name: str, source: str, **kwargs: Any) -> list[Problem]:
    data = BenchmarkDataModule([name], {name: source}, **kwargs)
    data.setup("test")
    return [problem for batch in data.test_dataloader() for problem in batch]


# Where the authors' evaluation and the data sets' cards have them.
PLACES = {
    "aime24": [("HuggingFaceH4/aime_2024", None, "train")],
    "aime25": [("math-ai/aime25", None, "test")],
    "amc23": [("math-ai/amc23", None, "test")],
    "math500": [("HuggingFaceH4/MATH-500", None, "test")],
    "minerva": [("math-ai/minervamath", None, "test")],
    "olympiadbench": [("math-ai/olympiadbench", None, "test")],
    "gsm8k": [("openai/gsm8k", "main", "test")],
    "asdiv": [("EleutherAI/asdiv", "asdiv", "validation")],
    "ar_lsat": [("hails/agieval-lsat-ar", None, "test")],
    "folio": [("tasksource/folio", None, "validation")],
    "logical_deduction": [
        ("SaylorTwift/bbh", f"logical_deduction_{n}_objects", "test") for n in ("three", "five", "seven")
    ],
    "prontoqa": [("renma/ProntoQA", None, "validation")],
    "proofwriter": [("renma/ProofWriter", None, "validation")],
    "arc_challenge": [("allenai/ai2_arc", "ARC-Challenge", "test")],
    "gpqa_diamond": [("Idavidrein/gpqa", "gpqa_diamond", "train")],
    "scibench": [("xw27/scibench", None, "train")],
    "rbench": [("R-Bench/R-Bench", "rbench-t_en", "test")],
    "mbpp": [("google-research-datasets/mbpp", "full", "test")],
    "mbpp_plus": [("evalplus/mbppplus", None, "test")],
    "humaneval": [("openai/openai_humaneval", None, "test")],
    "humaneval_plus": [("evalplus/humanevalplus", None, "test")],
}


def test_every_benchmark_has_rows_here() -> None:
    assert {*HUB} | {"gpqa_diamond"} == {*PLACES} == {*BENCHMARKS}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", HUB)
def test_rows_as_the_hub_has_them(name: str, suffix: str, tmp_path: Path) -> None:
    row, expected = HUB[name]
    assert repr(read(name, write(tmp_path / f"some{suffix}", [row]))) == repr(
        [expected]
    )  # with options, tolerance, preamble


@pytest.mark.parametrize("name", PLACES)
def test_places_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = gpqa(0) if name == "gpqa_diamond" else HUB[name][0]
    asked = []

    def load(path: str, name: str | None, split: str) -> Any:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr("datasets.load_dataset_builder", on_the_hub())
    monkeypatch.setattr("datasets.load_dataset", load)
    data = BenchmarkDataModule([name])
    data.setup("test")
    assert asked == PLACES[name]
    assert [p.source for p in data.splits["test"]] == [name] * len(asked)


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("aime24", {"problem": "q", "answer": 25.0, "difficulty": 2.0}, math_problem("aime24", "q", "25")),
        (
            "amc23",
            {
                "id": 3,
                "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1? Think step by step."}],
                "reward_model": {"style": "rule", "ground_truth": {"target": "2", "question": "1+1?"}},
            },
            math_problem("amc23", "1+1?", "2", "3"),
        ),
        (
            "olympiadbench",
            {"problem": "p", "answer": ["1", "\\$2"], "context": "c"},
            math_problem("olympiadbench", "c\n\np", "1, \\$2"),
        ),
        ("asdiv", {"problem": "q", "answer": "3 (hens) ; 4 (cows)"}, math_problem("asdiv", "q", "3; 4")),
        ("gsm8k", {"problem": "q", "answer": 7}, math_problem("gsm8k", "q", "7")),
        ("ar_lsat", LOGIC, choice("ar_lsat", LOGIC_TEXT, "A", ["True", "False"], "x_1")),
        ("folio", LOGIC | {"answer": "False"}, choice("folio", LOGIC_TEXT, "B", ["True", "False"], "x_1")),
        (
            "prontoqa",
            {"question": "q", "options": ["It purrs.", "It barks."], "answer": "It barks."},
            choice("prontoqa", "q\n\nA) It purrs.\nB) It barks.", "B", ["It purrs.", "It barks."]),
        ),
        ("gpqa_diamond", LOGIC | {"answer": "B)"}, choice("gpqa_diamond", LOGIC_TEXT, "B", ["True", "False"], "x_1")),
        (
            "arc_challenge",
            {"question": "q", "choices": ["B) or not", "A) or so"], "answer": "A"},  # letters of theirs
            choice("arc_challenge", "q\n\nA) or not\nB) or so", "B", ["or not", "or so"]),
        ),
        (
            "scibench",
            {"problem": "q", "answer": "−2.5e-3", "unit": " "},
            Problem(
                id="0",
                problem="q",
                answer=NumberAnswer("-2.5e-3", tolerance=0.05),
                source="scibench",
            ),
        ),
        (
            "mbpp",
            {"prompt": "Write a function to add.", "test": TOLD, "code": "...", "task_id": 11},
            Problem(id="11", problem=MBPP_TEXT, answer=CodeAnswer("\n".join(TOLD)), source="mbpp"),
        ),
    ],
)
def test_rows_as_files_have_them(name: str, row: dict[str, Any], expected: Problem, tmp_path: Path) -> None:
    assert repr(read(name, write(tmp_path / "mine.jsonl", [row]))) == repr([expected])


def test_gpqa_spreads_the_right_letter_the_same_way_in_each_run(tmp_path: Path) -> None:
    problems = read("gpqa_diamond", write(tmp_path / "g.parquet", [gpqa(i) for i in range(200)]))
    for p in problems:
        assert p.answer.options["ABCD".index(p.answer)] == "right"
        assert sorted(p.answer.options) == ["right", "wrong 1", "wrong 2", "wrong 3"]
        assert p.problem.splitlines()[2:] == [f"{c}) {o}" for c, o in zip("ABCD", p.answer.options, strict=True)]
    counts = Counter(p.answer for p in problems)
    assert all(30 <= counts[letter] <= 70 for letter in "ABCD"), counts  # 50 each, give or take three deviations
    last = read("gpqa_diamond", write(tmp_path / "last.parquet", [gpqa(199)]))
    assert last == problems[199:]  # by the row's own id, whatever stands around it
    bare = [{k: v for k, v in gpqa(i).items() if k != "Record ID"} for i in range(200)]
    assert len({p.answer for p in read("gpqa_diamond", write(tmp_path / "bare.parquet", bare))}) == 4


BAD_CHOICE: list[tuple[dict[str, Any], str]] = [
    (LOGIC | {"answer": "C"}, "the answer is not among the options"),
    (LOGIC | {"answer": None}, "the answer is not among the options"),
    (LOGIC | {"options": ["A) True"]}, "1 options, not 2 to 26"),
    (LOGIC | {"options": ["A) True", "B) "]}, "an option without text"),
    (gpqa(0) | {"Incorrect Answer 3": None}, "an option without text"),
    ({"question": "q", "answer": "A"}, "no options"),
    ({"input": "no options here", "target": "(A)"}, "0 options"),
    ({"query": "q Answer Choices: (A)x (B)y", "choices": ["(A)x", "(B)y"], "gold": [2]}, "not among the options"),
    (LOGIC | {"question": " "}, "empty problem"),
]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        *(("folio", row, reason) for row, reason in BAD_CHOICE),
        ("rbench", {"question": "q", "A": "1", "B": "2", "C": None, "D": "4", "answer": "D"}, "not among the options"),
        ("aime24", {"problem": "q", "answer": None}, "no answer"),
        ("aime24", {"problem": None, "answer": "1"}, "no problem"),
        ("olympiadbench", {"question": "q", "final_answer": ["1"], "modality": "Multimodal"}, "modality is Multimodal"),
        ("olympiadbench", {"question": "q", "final_answer": []}, "answer is a list"),
        ("scibench", {"problem_text": "q", "answer_number": "two", "unit": "m"}, "answer is not a number"),
        ("scibench", {"problem_text": "q", "answer_number": "nan", "unit": "m"}, "answer is not a number"),
        ("mbpp", {"prompt": "p", "test": "assert True"}, "no list of tests"),
        ("mbpp_plus", {"prompt": "p", "test": "assert True", "test_list": []}, "no list of tests"),
        ("humaneval", {"prompt": "p", "test": "t"}, "no prompt, test or entry_point"),
    ],
)
def test_unusable_rows_are_named_and_counted(name: str, row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [HUB[name][0], row])
    with pytest.warns(
        UserWarning, match=rf"`sources.{name}` \(.*x.jsonl\): 1 of 2 rows cannot be used: row 1: .*{reason}"
    ):
        (problem,) = read(name, source, max_unusable_share=0.5)
    assert problem.problem == HUB[name][1].problem
    with pytest.raises(ValueError, match=rf"share of 0\.5, .* is 0\.05: check that this is {name} \(the columns are "):
        read(name, source)


@pytest.mark.parametrize("name", ["folio", "math500", "scibench"])
@pytest.mark.parametrize("line", ["null", "7", '"A"', "[]"])
def test_lines_that_are_no_struct_are_left_out(name: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(HUB[name][0])}\n{line}\n")
    with pytest.warns(UserWarning, match="1 of 2 rows cannot be used: row 1: it is a .*, not a struct with columns"):
        assert len(read(name, str(tmp_path / "x.jsonl"), max_unusable_share=0.5)) == 1


def test_several_benchmarks_in_order_the_first_problems_of_each(tmp_path: Path) -> None:
    rows = [{"problem": f"q{i}", "answer": i, "id": 7} for i in range(3)]  # ids that do not tell them apart
    file = write(tmp_path / "a.parquet", rows)
    data = BenchmarkDataModule(
        ["math500", "aime25"], {"aime25": file, "math500": file}, max_problems=2, val_batch_size=3
    )
    data.setup("predict")
    ids = [[(p.source, p.id) for p in batch] for batch in data.predict_dataloader()]
    assert ids == [[("math500", "0"), ("math500", "1"), ("aime25", "0")], [("aime25", "1")]]
    data.setup("fit")
    assert data.splits["train"] == data.splits["validation"] == []


def test_numbers_of_rows_are_those_of_the_table(tmp_path: Path) -> None:
    rows = [{"problem": f"q {answer}", "answer": answer} for answer in (1, None, 2)]
    with pytest.warns(UserWarning, match="row 1: no answer"):
        problems = read("aime25", write(tmp_path / "a.jsonl", rows), max_unusable_share=0.5)
    assert [p.id for p in problems] == ["0", "2"]


def test_programs_need_a_sandbox_before_anything_is_read(
    sandboxes_checked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read("aime24", write(tmp_path / "a.jsonl", [HUB["aime24"][0]]))
    assert sandboxes_checked == []
    read("mbpp", write(tmp_path / "m.jsonl", [HUB["mbpp"][0]]))
    assert sandboxes_checked == ["checked"]

    def refuse() -> None:
        raise RuntimeError("no sandbox here")

    monkeypatch.setattr(sandbox, "check_sandbox", refuse)
    with pytest.raises(RuntimeError, match="no sandbox here"):
        BenchmarkDataModule(["aime24", "humaneval"], {"aime24": "nope.jsonl"}).setup("test")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"benchmarks": []}, r"benchmarks is \[\]; expected at least one name"),
        ({"benchmarks": ["aime24", "aime24"]}, "each name once"),
        ({"benchmarks": ["aime24", "aime42"]}, "benchmarks names aime42; expected some of aime24, aime25, math500"),
        ({"benchmarks": ["aime24"], "sources": {"amc": "x"}}, "sources names amc; expected some of aime24"),
        ({"benchmarks": ["aime24"], "max_problems": 0}, "max_problems is 0"),
        ({"benchmarks": ["aime24"], "max_unusable_share": 1.5}, "max_unusable_share is 1.5"),
    ],
)
def test_errors_of_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkDataModule(**kwargs)


def test_errors_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"`sources.aime24` is 'nope.parquet': there is no .*/nope.parquet"):
        read("aime24", "nope.parquet")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "test.jsonl", [HUB["aime24"][0]])
    with pytest.raises(
        ValueError, match=r"Unknown split \"train\".*; give a file, or a folder or hub data set that has"
    ):
        read("aime24", str(tmp_path / "folder"))

    def fail(error: Exception) -> Callable[..., None]:
        def load(**kwargs: Any) -> None:
            raise error

        return load

    monkeypatch.setattr("datasets.load_dataset_builder", on_the_hub())
    monkeypatch.setattr("datasets.load_dataset", fail(ConnectionError("Couldn't reach it")))
    with pytest.raises(
        ConnectionError, match=r"`sources.aime25` is 'math-ai/aime25', which is no local file .* reached"
    ):
        BenchmarkDataModule(["aime25"]).setup("test")
    gated = datasets.exceptions.DatasetNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.")
    monkeypatch.setattr("datasets.load_dataset", fail(gated))
    with pytest.raises(ValueError, match=r"gated dataset on the Hub.; accept its terms .* log in with `hf auth login`"):
        BenchmarkDataModule(["gpqa_diamond"]).setup("test")


def test_sources_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards: seed_everything sets it
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    # The parser reads the signature of what it will call.
    monkeypatch.setattr(Trainer, "test", functools.wraps(Trainer.test)(lambda self, *args, **kwargs: None))
    model = {"model": "tiny", "sampler": {"class_path": "masa_lightning.TransformersSampler"}}
    data = {"benchmarks": ["aime24", "math500"], "sources": {"math500": "in.yaml", "amc23": "left.alone"}}
    config = {
        "trainer": {"accelerator": "cpu", "logger": False, "enable_checkpointing": False},
        "model": {"class_path": "masa_lightning.MASALightningModule", "init_args": model},
        "data": {"class_path": "masa_lightning.BenchmarkDataModule", "init_args": data},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    ran = cli.main(
        [
            *("test", "--config", "run.yaml"),
            "--data.init_args.sources.aime24=/a/file.parquet",
            *("--data.init_args.sources.math500", "org/name:config"),
            *("--data.init_args.benchmarks", "[aime24, gsm8k]", "--data.init_args.max_problems", "3"),
        ]
    )
    assert ran.datamodule.sources == {
        "aime24": "/a/file.parquet",
        "math500": "org/name:config",
        "amc23": "left.alone",
    }
    assert (ran.datamodule.benchmarks, ran.datamodule.max_problems) == (["aime24", "gsm8k"], 3)
