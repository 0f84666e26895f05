"""Rows in the shapes in which people have them, and what is wrong with those that cannot be used."""

import json
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_rows import on_the_hub
from lightning.pytorch import LightningModule, Trainer

from masa_lightning.data import _rows
from masa_lightning.data._answers import answer_text
from masa_lightning.data._cells import UnusableRowError
from masa_lightning.data.benchmarks import BenchmarkDataModule
from masa_lightning.data.math import MathDataModule
from masa_lightning.types import ChoiceAnswer, Problem

# From Lightning 2.6 with torch 2.13, on every loader.
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # It would tell the hub, for local files too.
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps(rows))
    return str(path)


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(start, start + n)]


def read(source: str, **kwargs: Any) -> list[Problem]:
    data = MathDataModule(test=source, **kwargs)
    data.setup("test")
    return data.splits["test"]


VERL = {
    "data_source": "MATH",
    "level": "Level 5",
    "prompt": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1+1? Think step by step."},
    ],
    "reward_model": {"style": "rule", "ground_truth": {"target": "2", "solution": "2 m", "question": " What is 1+1?"}},
    "extra_info": {"index": 0, "split": "train"},
}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_plain_columns_in_every_format(tmp_path: Path, suffix: str) -> None:
    table = [{"question": f" q{i} ", "answer": i + 0.0, "level": i, "solution": "x" * 999} for i in range(3)]
    problems = read(write(tmp_path / f"some{suffix}", table))
    assert problems[2] == Problem(id="some/2", problem="q2", answer="2", source="some", metadata={"level": 2})


def test_verl(tmp_path: Path) -> None:
    (problem,) = read(write(tmp_path / "v.parquet", [VERL]))
    assert (problem.problem, problem.answer) == ("What is 1+1?", "2")
    assert problem.metadata == {"data_source": "MATH", "level": "Level 5"}
    other = VERL | {"reward_model": {"ground_truth": {"target": "2", "question": "Another text"}}}
    assert read(write(tmp_path / "o.parquet", [other]))[0].problem == "What is 1+1? Think step by step."
    text = VERL | {"reward_model": {"ground_truth": "2"}, "extra_info": {"question": "What is 1+1?"}}
    assert read(write(tmp_path / "t.parquet", [text]))[0].problem == "What is 1+1?"
    (named,) = read(write(tmp_path / "v.parquet", [VERL]), answer_column="reward_model.ground_truth.solution")
    assert (named.problem, named.answer) == ("What is 1+1?", "2 m")
    (plain,) = read(write(tmp_path / "p.jsonl", [{"problem": "1+1?", "reward_model": {"ground_truth": "2"}}]))
    assert (plain.problem, plain.answer) == ("1+1?", "2")


@pytest.mark.parametrize(
    "text", ["Let x be 3.\n\nWhat is x?", "What is x? Solve x + 1 = 4.", "What is x?\n\nAnd what is x + 1?"]
)
def test_a_question_that_is_not_all_of_the_prompt(tmp_path: Path, text: str) -> None:
    row = {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": "3"}}
    row |= {"extra_info": {"question": "What is x?"}}
    assert [p.problem for p in read(write(tmp_path / "v.parquet", [row]))] == [text]
    row["prompt"] = [{"role": "user", "content": f"Reason step by step.\n{text}\nPut your answer in a box."}]
    row["extra_info"] = {"question": text}
    assert [p.problem for p in read(write(tmp_path / "w.parquet", [row]))] == [text]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_copies_of_a_row_keep_what_is_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(_rows, "_MOST_COPIES", 2)
    texts = "aabacbaad"
    table = [{"id": f"i{i}", "problem": t, "answer": t * 2, "level": i} for i, t in enumerate(texts)]
    expected = [
        Problem(id=f"i{i}", problem=t, answer=t * 2, source="c", metadata={"level": i}) for i, t in enumerate(texts)
    ]
    assert read(write(tmp_path / f"c{suffix}", table)) == expected
    other = [{"problem": "a", "answer": answer} for answer in (1, "1.0")]  # Python: 1 == True
    other += [{"problem": "b", "answer": answer} for answer in (True, "true")]
    assert [p.answer for p in read(write(tmp_path / "o.jsonl", other))] == ["1", "1.0", "True", "true"]


def test_a_copied_row_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counter[str]()
    monkeypatch.setattr(_rows, "problem_text", lambda row, column: count.update([row[column]]) or str(row[column]))
    assert len(read(write(tmp_path / "c.parquet", rows(3) * 40))) == 120
    assert [*count.values()] == [1, 1, 1]


def test_a_story_with_a_capital(tmp_path: Path) -> None:
    source = write(tmp_path / "s.jsonl", [{"Body": "Ann has 3.", "question": "How many?", "answer": "3"}])
    with pytest.raises(ValueError, match=r"such as 'Body\+question'"):
        read(source)
    assert read(source, problem_column="Body+question")[0].problem == "Ann has 3.\n\nHow many?"


def test_columns_by_name_paths_and_parts(tmp_path: Path) -> None:
    row = {"context": "A.", "question": "B?", "options": ["A) 1", "B) 2"], "meta": {"key": {"gold": "B"}}, "id": "x7"}
    source = write(tmp_path / "l.json", [row])
    (problem,) = read(source, problem_column="context+question+options", answer_column="meta.key.gold")
    assert repr(problem) == repr(
        Problem(
            id="x7",
            problem="A.\n\nB?\n\nA) 1\nB) 2",
            answer=ChoiceAnswer("B", options=["1", "2"]),
            source="l",
        )
    )
    with pytest.raises(
        ValueError, match=r"the column 'question' alone is not the whole problem .* context and options"
    ):
        read(source, answer_column="meta.key.gold")


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1+1?"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*CHAT, {"role": "assistant", "content": "It is 2."}], "answer": "2"},
        {"prompt": CHAT, "answer": "2"},  # as TRL's GRPOTrainer wants it
        {"prompt": "What is 1+1?", "answer": "2"},
        {"conversations": [{"from": "human", "value": "What is 1+1?"}, {"from": "gpt", "value": "2"}], "answer": "2"},
        {"messages": [{"role": "user", "content": "Another one?"}], "problem": "What is 1+1?", "answer": "2"},
        {"Problem": "What is 1+1?", "Answer": "2"},
    ],
    ids=lambda row: "+".join(row),
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_columns_that_are_found(
    tmp_path: Path, row: dict[str, Any], suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        (problem,) = read(write(tmp_path / f"c{suffix}", [row]))
    assert (problem.problem, problem.answer) == ("What is 1+1?", "2")
    assert ("dropped the system message of 1 prompts" in caplog.text) == ("Be brief." in str(row))


def test_an_answer_of_several_columns_is_a_list(tmp_path: Path) -> None:
    row = {"problem": "Which are x and y?", "x": 3.0, "y": "\\frac12"}
    assert [p.answer for p in read(write(tmp_path / "j.jsonl", [row]), answer_column="x+y")] == ["3, \\frac12"]
    source = write(tmp_path / "k.jsonl", [row, row | {"y": None}])
    with pytest.warns(UserWarning, match="1 of 2 rows cannot be used: row 1: no answer"):
        assert len(read(source, answer_column="x+y", max_unusable_share=0.5)) == 1


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    table = [{"a": "A.", "b": "B?", "answer": "1"}, {"a": None, "b": "B?", "answer": "1"}]
    with pytest.warns(UserWarning, match=r"row 1: no problem \(its part 'a'\)"):
        read(write(tmp_path / "p.jsonl", table), problem_column="a+b", max_unusable_share=0.5)


def test_answers_that_only_their_own_text_meets_are_counted(tmp_path: Path) -> None:
    answers = ["7", "about 7", "no solution", "July 4", "\\frac{1}{2}", "about 7"]
    source = write(tmp_path / "o.jsonl", [{"problem": f"q{i}", "answer": a} for i, a in enumerate(answers)])
    told = pytest.warns(
        UserWarning,
        match=r"`test` .*: 3 of 6 answers are neither words nor .* \('about 7', 'July 4'; row 1 is the first\)",
    )
    with told:
        assert [p.answer for p in read(source)] == answers
    data = BenchmarkDataModule(["math500"], {"math500": source})
    with pytest.warns(UserWarning, match=r"`sources.math500`: 3 of 6 answers"):
        data.setup("test")


def test_last_user_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chat = [("system", "s"), ("user", "first"), ("assistant", "a"), ("user", "last")]
    row = {"problem": [{"role": r, "content": c} for r, c in chat], "answer": "1"}
    told = pytest.warns(UserWarning, match="1 prompts are conversations, of which the user's last message alone is")
    with caplog.at_level("INFO", logger="lightning.pytorch"), told:
        assert [p.problem for p in read(write(tmp_path / "c.jsonl", [row]))] == ["last"]
    assert "dropped the system message of 1 prompts" in caplog.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (204.0, "204"),
        (204, "204"),
        (0.5, "0.5"),
        (-3.0, "-3"),
        (np.float64(7.0), "7"),
        (np.int64(7), "7"),
        (Decimal("12.50"), "12.50"),
        (Decimal("12.00"), "12"),
        (True, "True"),
        ("204.0", "204.0"),
        (" \\frac12 ", "\\frac12"),
        ("He has 2*36=<<2*36=72>>72.\n#### 72", "72"),
        ("so\n#### $1,234.5 ", "$1234.5"),
        ("#### (1,234)\n", "(1,234)"),
        ("thus \\boxed{3}", "thus \\boxed{3}"),
        ({"target": 3.0, "solution": "..."}, "3"),
    ],
)
def test_answers(value: Any, text: str) -> None:
    assert answer_text(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no answer"),
        (math.nan, "not a finite number"),
        (math.inf, "not a finite number"),
        (Decimal("NaN"), "not a finite number"),
        ("", "empty answer"),
        ("  ", "empty answer"),
        ("proof", "not a number or expression"),
        ("notfound", "not a number or expression"),
        (["assert f(1) == 2"], "answer is a program or its tests"),
        ("so\n#### ", "empty answer"),
        (["1", "2"], "answer is a list of several"),
        ("#### 5 but then more\nno", "text behind the final '####'"),
        ({"gold": "1"}, "struct without 'target'"),
        ({"target": None}, "no answer"),
    ],
)
def test_unusable_answers(value: Any, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        answer_text(value)


def test_mixed_types_and_unusable_rows_are_named_and_counted(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"problem": None, "answer": 1},
        {"problem": " ", "answer": 1},
        {"problem": 3, "answer": 1},
        {"problem": [{"role": "system", "content": "x"}], "answer": 1},
        {"problem": [{"role": "user", "content": None}], "answer": 1},
        {"problem": "q", "answer": None},
        {"problem": "q", "answer": ""},
        {"problem": "q", "answer": [1, 2]},
    ]
    good = [{"problem": "a", "answer": 1}, {"problem": "b", "answer": "x"}, {"problem": "c", "answer": 2.5}]
    source = write(tmp_path / "m.jsonl", good + bad)
    data = MathDataModule(test=source, max_unusable_share=0.8)
    with pytest.warns(
        UserWarning, match=r"8 of 11 rows cannot be used: row 3: no problem; row 4: empty problem; row 5"
    ) as w:
        data.setup("test")
    assert "2 x no problem" in str(w[0].message)
    assert [(p.id, p.answer) for p in data.splits["test"]] == [("m/0", "1"), ("m/1", "x"), ("m/2", "2.5")]
    assert data.unusable == 8
    with pytest.raises(
        ValueError, match=r"share of 0\.727, and max_unusable_share is 0\.05: check that problem_column"
    ):
        read(source)


def test_ids_of_the_table_need_to_be_unique(tmp_path: Path) -> None:
    table = [row | {"id": i} for i, row in enumerate(rows(3))]
    assert [p.id for p in read(write(tmp_path / "a.json", table))] == ["0", "1", "2"]
    table[2]["id"] = 1
    assert [p.id for p in read(write(tmp_path / "b.json", table))] == ["b/0", "b/1", "b/2"]


def test_splits_of_files_and_folders(tmp_path: Path) -> None:
    source = write(tmp_path / "one.parquet", rows(10))
    assert len(read(source, test_split="train[:30%]")) == 3
    assert [p.answer for p in read(source, test_split="x[:1]+x[-1:]")] == ["1", "10"]
    write(tmp_path / "folder" / "train.jsonl", rows(4))
    write(tmp_path / "folder" / "test.jsonl", rows(3, 50))
    folder = str(tmp_path / "folder")
    data = MathDataModule(train=folder, test=folder, validation_size=1)
    data.setup(None)
    assert [len(data.splits[s]) for s in ("train", "validation", "test")] == [3, 1, 3]
    with pytest.raises(ValueError, match=r"Unknown split \"dev\".*'test'.*`test_split`"):
        read(folder, test_split="dev")


def test_a_rewritten_file_is_read_anew(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "a.jsonl", rows(3)))) == 3
    assert len(read(write(tmp_path / "a.jsonl", rows(5)))) == 5


@pytest.mark.parametrize(("size", "count"), [(0.25, 5), (7, 7), (0, 0), (0.0, 0)])
def test_held_out_problems_share_no_text(tmp_path: Path, size: float, count: int) -> None:
    copies = [{"problem": r["problem"].upper().replace(" ", "  "), "answer": r["answer"]} for r in rows(6)]
    source = write(tmp_path / "t.parquet", rows(20) + copies)
    data = MathDataModule(train=source, validation_size=size, seed=3)
    data.setup("fit")
    train, held_out = data.splits["train"], data.splits["validation"]
    assert (len(train), len(held_out), data.duplicates) == (20 - count, count, 6)
    assert sorted(int(p.id.split("/")[1]) for p in train + held_out) == list(range(20))
    again = MathDataModule(train=source, validation_size=size, seed=3)
    again.setup("validate")
    assert again.splits["validation"] == held_out
    other = MathDataModule(train=source, validation_size=size, seed=4)
    other.setup("fit")
    assert not count or other.splits["validation"] != held_out


def test_a_problem_with_two_answers_is_left_out_with_both(tmp_path: Path) -> None:
    twice = [{"problem": "Find  $x$ NOW", "answer": a} for a in ("1/2", "3")]
    same = [{"problem": "Halve it", "answer": a} for a in (r"\frac12", "0.5", "1/2")]
    other = [{"problem": "Find $X$ now", "answer": "4"}]
    source = write(
        tmp_path / "t.jsonl", rows(40) + twice[:1] + same + other + [{"problem": "find $x$ now", "answer": "3"}]
    )
    data = MathDataModule(train=source, validation_size=0, test=source, test_split="train")
    message = (
        "2 of 46 rows cannot be used: row 40: the same problem is there with another answer; row 45: .* 2 x the same"
    )
    with pytest.warns(UserWarning, match=message):
        data.setup("fit")
    assert [p.answer for p in data.splits["train"][40:]] == [r"\frac12", "4"]
    assert (data.unusable, data.duplicates) == (2, 2)
    with pytest.warns(UserWarning, match=message):  # nor is anything measured by it
        data.setup("test")
    assert len(data.splits["test"]) == 44
    with pytest.raises(ValueError, match="2 of 2 rows cannot be used"):
        read(write(tmp_path / "two.jsonl", twice))
    choice = {"question": "Which?", "options": ["red", "green"]}
    table = write(tmp_path / "c.jsonl", [choice | {"answer": a} for a in "AB"])
    with pytest.raises(ValueError, match="another answer"):
        read(table, problem_column="question+options")


def test_overlap_with_a_validation_source_is_told(tmp_path: Path) -> None:
    train, validation = write(tmp_path / "t.json", rows(10)), write(tmp_path / "v.json", rows(4, 8))
    data = MathDataModule(train=train, validation=validation)
    with pytest.warns(UserWarning, match="2 of 10 training problems are also among the validation problems"):
        data.setup("fit")
    assert len(data.splits["train"]) == 10


def test_errors_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"`test` is .*: there is no .*/nope.parquet; expected an existing file"
    ):
        read(str(tmp_path / "nope.parquet"))
    with pytest.raises(FileNotFoundError, match=r"there is no .*/data/nope.jsonl"):
        read("data/nope.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="which is empty"):
        read(str(tmp_path / "empty.jsonl"))
    pq.write_table(pa.table({"problem": pa.array([], pa.string()), "answer": []}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"it has no rows"):
        read(str(tmp_path / "none.parquet"))
    with pytest.raises(ValueError, match=r"no rows|could not be loaded"):
        read(write(tmp_path / "none.json", []))
    (tmp_path / "x.txt").write_text("?")
    with pytest.raises(ValueError, match=r"unknown format; expected one of .parquet"):
        read(str(tmp_path / "x.txt"))
    (tmp_path / "broken.parquet").write_bytes(b"not a table")
    with pytest.raises(ValueError, match=r"its split 'test' could not be loaded: .*arquet"):
        read(str(tmp_path / "broken.parquet"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=r"`test` is .*nothing"):
        read(str(tmp_path / "nothing"))

    def unreachable(**kwargs: Any) -> None:
        assert kwargs == {"path": "org/name", "name": "config", "split": "test"}
        raise ConnectionError("Couldn't reach 'org/name' on the Hub")

    monkeypatch.setattr("datasets.load_dataset_builder", on_the_hub())
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ConnectionError, match=r"`test` is 'org/name:config', which is no local file .* not be reached"):
        read("org/name:config")


def test_errors_of_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "a.json", [{"text": "q", "gold": "1"}])
    with pytest.raises(ValueError, match=r"a.json' with the columns text, gold: no problem column.*set problem_column"):
        read(source)
    with pytest.raises(ValueError, match="no column 'answer'; set answer_column to one of those found"):
        read(source, problem_column="text")
    with pytest.raises(ValueError, match="no column 'problm'; set problem_column"):
        read(source, problem_column="problm", answer_column="gold")
    assert read(source, problem_column="text", answer_column="gold")[0].answer == "1"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "none of train, validation, test and predict is set"),
        ({"train": "x", "validation_size": 1.0}, "validation_size is 1.0"),
        ({"train": "x", "validation_size": -1}, "validation_size is -1"),
        ({"train": "x", "max_unusable_share": 2}, "max_unusable_share is 2"),
    ],
)
def test_errors_of_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MathDataModule(**kwargs)


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation_size is 5, but there are 5 different training problems"):
        MathDataModule(train=write(tmp_path / "a.json", rows(5)), validation_size=5).setup("fit")


def to_predict(source: str, **kwargs: Any) -> list[Problem]:
    data = MathDataModule(predict=source, **kwargs)
    data.setup("predict")
    return [problem for batch in data.predict_dataloader() for problem in batch]


def test_problems_to_predict_need_no_answers(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.parquet", [{"id": "a", "question": "1+1?"}])
    assert to_predict(bare) == [Problem(id="a", problem="1+1?", answer="", source="bare")]
    assert to_predict(bare, answer_column="gold") == to_predict(bare)  # of another source
    some = [{"problem": f"q{i}", "answer": answer} for i, answer in enumerate(["1", None, " "])]
    assert [p.answer for p in to_predict(write(tmp_path / "some.jsonl", some))] == ["1", "", ""]
    verl = VERL | {"reward_model": None}
    assert [(p.problem, p.answer) for p in to_predict(write(tmp_path / "v.json", [verl]))] == [
        ("What is 1+1? Think step by step.", "")
    ]
    with pytest.raises(ValueError, match="problem column"):
        to_predict(write(tmp_path / "none.json", [{"text": "1+1?"}]))
    with pytest.raises(ValueError, match="answer is a list"):  # there is one, but it cannot be read
        to_predict(write(tmp_path / "list.json", [{"problem": "q", "answer": [1, 2]}]))
    with pytest.raises(ValueError, match="no column 'answer'"):
        read(bare, problem_column="question")


def test_a_text_file_to_predict(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("What is 1+1?\n\n  \n Was ist $\\sqrt{4}$? é\n", encoding="utf-8")
    first, second = to_predict(str(file), problem_column="question")  # which is that of other sources
    assert first == Problem(id="mine/0", problem="What is 1+1?", answer="", source="mine")
    assert (second.id, second.problem) == ("mine/1", "Was ist $\\sqrt{4}$? é")
    file.write_text("\n \n")
    with pytest.raises(ValueError, match=r"`predict` is '.*mine.txt', which is empty; expected one problem a line"):
        to_predict(str(file))
    with pytest.raises(FileNotFoundError, match=r"`predict` is 'nope.txt': there is no .*/nope.txt"):
        to_predict("nope.txt")


def test_page_breaks_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "pdf.txt").write_text("What is 1+1?\n\fcompute 2+2\n\f\n")
    assert [p.problem for p in to_predict(str(tmp_path / "pdf.txt"))] == ["What is 1+1?", "compute 2+2"]


def test_what_cannot_be_predicted_is_left_out_and_named(tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", [{"problem": ""}, {"problem": "1+1?"}, {"problem": None}])
    with pytest.warns(UserWarning, match="2 of 3 rows cannot be used: row 0: empty problem; row 2: no problem"):
        assert [p.problem for p in to_predict(few)] == ["1+1?"]
    with pytest.raises(ValueError, match="1 of 1 rows cannot be used: row 0: empty problem"):
        to_predict(write(tmp_path / "none.jsonl", [{"problem": ""}]))


def test_a_file_of_another_format_to_predict(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("1+1?")
    with pytest.raises(
        ValueError, match=r"unknown format; expected one of \.parquet.*\.txt \(a problem on each line\)"
    ):
        to_predict(str(tmp_path / "p.md"))
    with pytest.raises(ValueError, match=r"unknown format; expected one of [^(]*$"):
        MathDataModule(test=str(tmp_path / "p.md")).setup("test")


def test_prediction_without_a_source_of_its_own(tmp_path: Path) -> None:
    test, other = write(tmp_path / "t.json", rows(3)), write(tmp_path / "p.json", rows(2, 10))
    data = MathDataModule(test=test)
    assert [p.answer for batch in data.predict_dataloader() for p in batch] == ["1", "2", "3"]
    both = MathDataModule(test=test, predict=other, predict_split="train[:1]")
    both.setup("predict")
    assert {split: len(problems) for split, problems in both.splits.items()} == {"predict": 1}
    assert [p.answer for batch in both.predict_dataloader() for p in batch] == ["11"]
    assert len(both.test_dataloader()) == 1


class Drops(LightningModule):
    """Filters in `setup`, as the library's modules do."""

    def setup(self, stage: str) -> None:
        self.dropped = self.trainer.datamodule.drop_problems(lambda p: p.answer in {"1", "2"})

    def test_step(self, batch: list[Problem], batch_idx: int) -> None:
        self.seen = [*getattr(self, "seen", []), *(p.answer for p in batch)]


def test_module_drops_before_loaders_are_made(tmp_path: Path) -> None:
    data = MathDataModule(test=write(tmp_path / "a.json", rows(5)), val_batch_size=2)
    module = Drops()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.test(module, data, verbose=False)
    assert (module.dropped, module.seen) == (2, ["3", "4", "5"])


# -- rows through files, kind by kind -------------------------------------------------------------------------------

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\nWhat is 1+1?\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ('{"problem": "q", "answer": 12345678901234567890123}', "12345678901234567890123"),
        ('{"problem": "q", "answer": 9007199254740993}\n{"problem": "r", "answer": 0.5}', "9007199254740993"),
        (
            '{"problem": "q", "answer": 12345678901234567890123}\n{"problem": "r", "answer": "x"}',
            "12345678901234567890123",
        ),
        ('{"problem": "q", "answer": 0.1234567890123456789}', "0.1234567890123456789"),
        ('{"problem": "q", "answer": 1.0}\n{"problem": "r", "answer": 1}', "1"),
        ('{"problem": "q", "answer": 0.00001}', "0.00001"),
        ('{"problem": "q", "answer": "2020-01-01"}', "2020-01-01"),
        (json.dumps({"problem": "q", "answer": r'["\frac{1}{2}"]'}), r"\frac{1}{2}"),
        (json.dumps({"problem": "q", "answer": "so\n#### 12\nbehind"}), "12"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_answers_of_json_files(tmp_path: Path, line: str, answer: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(line if suffix == "jsonl" else "[" + line.replace("\n", ",") + "]")
    assert read(str(path))[0].answer == answer


def test_floats_of_parquet_files_are_exact_or_left_out(tmp_path: Path) -> None:
    values = [0.00001, 2.0, 1.2345678901234568e22, 2.0**53, 0.1 + 0.2]
    for kind, answers in ((pa.float64(), ["0.00001", "2"]), (pa.float32(), ["0.00001", "2", "0.3"])):
        table = pa.table({"problem": list("abcde"), "answer": pa.array(values, kind)})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.warns(UserWarning, match="of 5 rows cannot be used: row 2: answer is a float past"):
            assert [p.answer for p in read(str(tmp_path / "a.parquet"), max_unusable_share=0.9)] == answers


def test_dapos_wrapper_is_taken_off_and_others_are_reported(tmp_path: Path) -> None:
    def row(text: str) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": "2", "style": "rule"}}

    assert [p.problem for p in read(write(tmp_path / "d.parquet", [row(DAPO)]))] == ["What is 1+1?"]
    texts = [DAPO, 'What is 1+1? Reply with "Answer: X".', "What is 1+1? Put the result after ####."]
    with pytest.warns(
        UserWarning, match=r"2 of 3 problems ask for their answer in a form .* 1 x \"####\"; row 1 is the first"
    ):
        assert len(read(write(tmp_path / "o.parquet", [row(text) for text in texts]))) == 3


def test_a_prompt_and_its_answer_written_as_texts(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Is $\\frac12$ half?"}]
    for written in (json.dumps, repr):
        row = {"prompt": written(chat), "reward_model": written({"ground_truth": "yes", "style": "rule"})}
        (problem,) = read(write(tmp_path / "v.jsonl", [row]))
        assert (problem.problem, problem.answer) == ("Is $\\frac12$ half?", "yes")


def test_case_in_mathematics_tells_problems_apart(tmp_path: Path) -> None:
    texts = ["Find $X$ now.", "Find $x$ now.", "FIND  $x$ NOW."]
    table = [{"problem": text, "answer": "1"} for text in texts]
    data = MathDataModule(train=write(tmp_path / "t.jsonl", table), validation_size=0)
    data.setup("fit")
    assert [p.problem for p in data.splits["train"]] == texts[:2]
    held = write(tmp_path / "v.jsonl", table[:1])
    overlap = MathDataModule(train=write(tmp_path / "t.jsonl", table), validation=held)
    with pytest.warns(UserWarning, match="1 of 2 training problems are also among the validation problems"):
        overlap.setup("fit")
