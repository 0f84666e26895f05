"""What the real writers left, read back; seeds and arms; broken, half-written and strangers' files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masa_lightning.report.contents import contents
from masa_lightning.report.page import page
from masa_lightning.report.runs import Run, arms, find_runs, load_runs
from masa_lightning.report.scalars import read_scalars
from masa_lightning.report.settings import differing, read_settings


def load(folder: Path) -> Run:
    return load_runs([folder])[0]


def test_scalars_are_those_of_tensorboard_itself(runs: Path) -> None:
    scalars, problems = read_scalars(runs / "masa-0")
    events = EventAccumulator(str(runs / "masa-0"), size_guidance={"tensors": 0}).Reload()
    known = events.Tags()["scalars"]
    assert "val/pass@1" in known and "controls/gating/share" in known
    theirs = {tag: {e.step: e.value for e in events.Scalars(tag) if math.isfinite(e.value)} for tag in known}
    assert scalars == {tag: series for tag, series in theirs.items() if series}
    assert not problems


def test_csv_has_the_same_figures(runs: Path) -> None:
    csv, tensorboard = (read_scalars(runs / name)[0] for name in ("other", "masa-0"))
    assert csv["val/pass@1"] == pytest.approx(tensorboard["val/pass@1"])
    assert csv["pass_rate"] == pytest.approx(tensorboard["pass_rate"])


def test_rollouts_of_the_first_and_the_last_validation(runs: Path) -> None:
    run = load(runs / "masa-0")
    stages = [(e.stage, e.step, len(e.problems)) for e in run.evaluated]
    assert stages == [("train", 1, 2), ("train", 2, 2), ("train", 3, 2), ("validate", 0, 4), ("validate", 3, 4)]
    first = {r.id: r for r in run.evaluated[-1].problems}
    assert [first[name].actual for name in ("1+1", "2+2", "3+3")] == [1, pytest.approx(1 / 3), 0]
    assert first["2+2"].predicted == 0.75
    assert first["2+2"].predicted_length == 30
    assert first["2+2"].length == first["2+2"].lengths[0]  # of the right one alone
    assert run.steps == 3
    assert not run.notes


def test_a_first_and_a_last_validation_that_were_not_measured_alike(run: Path) -> None:
    """As where a run went on with another temperature: the screen showed no change, and the page did."""
    first, last = load(run).of_stage("validate")
    assert first.settings == last.settings
    assert (first.settings["temperature"], first.settings["num_generations"]) == ("1.0", "3")
    before = contents([load(run)])
    file = run / "rollouts" / "validate_step000003.jsonl"
    file.write_text(file.read_text().replace('"temperature": 1.0', '"temperature": 0.0'))
    after = contents([load(run)])
    change = before["overview"]["head"].index("change")
    assert after["overview"]["rows"][0][change] == "not measured alike: temperature 1.0 and 0.0"
    assert "alike" not in before["overview"]["rows"][0][change]
    assert [note for _, note in after["notes"]] == [
        "its first and last validation were not measured alike (temperature 1.0 and 0.0): no change is shown"
    ]
    held_out = [[p["before"] for p in made["problems"] if p["set"] == "validation"] for made in (before, after)]
    assert None not in held_out[0] and set(held_out[1]) == {None}


def test_seeds_are_an_arm(runs: Path) -> None:
    found = arms(load_runs(find_runs([runs])))
    assert [(arm.label, [run.name for run in arm.runs]) for arm in found] == [
        ("masa-0 (2 seeds)", ["masa-0", "masa-1"]),
        ("other", ["other"]),
    ]


def test_a_seed_that_was_gone_on_with_stays_in_its_arm(runs: Path) -> None:
    """`--ckpt_path last` stands in its configuration then."""
    file = runs / "masa-1" / "config.yaml"
    file.write_text(re.sub(r"^ckpt_path:.*\n", "", file.read_text(), flags=re.M) + "\nckpt_path: last\n")
    assert [len(arm.runs) for arm in arms(load_runs(find_runs([runs])))] == [2, 1]


def test_the_same_seed_twice_is_no_arm(runs: Path, run: Path) -> None:
    found = arms(load_runs([runs / "masa-0", run]))
    assert [len(arm.runs) for arm in found] == [1, 1]


def test_settings_that_differ(runs: Path) -> None:
    loaded = load_runs(find_runs([runs]))
    assert differing([r.settings for r in loaded]) == [
        "data.init_args.seed",
        "model.init_args.optimization.optimizer.init_args.lr",
        "seed_everything",
    ]
    assert loaded[0].settings["model.init_args.api_key"] == "not shown"
    assert loaded[0].settings["trainer.callbacks.PredictiveGating.init_args.mode"] == "shadow"


def test_what_goes_on_after_an_interruption_counts(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for part, steps in enumerate((range(1, 6), range(3, 5))):
        writer = SummaryWriter(str(tmp_path / "log"), filename_suffix=f".{part}")
        for step in steps:
            writer.add_scalar("reward", part + step / 10, step)
        writer.close()
    files = sorted((tmp_path / "log").iterdir(), key=lambda path: path.suffix)
    for number, file in enumerate(files):
        file.rename(file.with_name(f"events.out.tfevents.{number}"))
    scalars, _ = read_scalars(tmp_path / "log")
    assert scalars["reward"] == pytest.approx({1: 0.1, 2: 0.2, 3: 1.3, 4: 1.4})


@pytest.mark.parametrize("kind", ["events", "csv"])
def test_a_validation_by_itself_is_none_of_training(run: Path, tmp_path: Path, kind: str) -> None:
    """One of an earlier step deleted all later ones, one of the last step took its place."""
    from torch.utils.tensorboard import SummaryWriter

    before = read_scalars(run)[0]
    if kind == "csv":
        tags = ["val/pass@1", "epoch", "reward"]
        steps = sorted(before["epoch"])
        rows = [[str(step), *(str(before[tag].get(step, "")) for tag in tags)] for step in steps]
        rows += [["1", "0.9", "", ""], ["3", "0.9", "", ""]]
        next(run.glob("events*")).unlink()
        (run / "metrics.csv").write_text("\n".join(",".join(row) for row in [["step", *tags], *rows]))
    else:
        for step in (1, 3):
            writer = SummaryWriter(str(run), filename_suffix=f".{step}")
            writer.add_scalar("val/pass@1", 0.9, step)
            writer.close()
    after = read_scalars(run)[0]
    assert [*after["val/pass@1"]] == [0, 1, 2, 3]
    assert after["val/pass@1"] == pytest.approx(before["val/pass@1"])
    assert after["reward"] == pytest.approx(before["reward"])


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("events.out.tfevents.9", b"\x18\0\0\0\0\0\0\0crc.half", "no whole record"),
        ("events.out.tfevents.9", b"\xff" * 200, "no whole record"),
        ("events.out.tfevents.9", b"\x04\0\0\0\0\0\0\0crc.\xff\xff\xff\xffcrc.", "no event file of TensorBoard"),
        ("metrics.csv", b"step,reward\n1,\xff\xfe\n", "no table of metrics"),
        ("metrics.csv", b"step,x\n1,zebra\n", "no table of metrics"),
        ("metrics.csv", b"step,x\ninf,1\n", "no table of metrics"),
        ("config.yaml", b"a: [1, 2", "config.yaml could not be read"),
        ("config.yaml", b"\xff\xfe", "config.yaml could not be read"),
        ("config.yaml", b"just text", "config.yaml has no settings"),
        ("results.json", b'{"benchmarks": [{"name": 3}]}', "results.json is none of BenchmarkReport's"),
        (
            "rollouts/validate_step000003.jsonl",
            b'{"kind": "solution"}\n[1]\nnull\n{"step',
            "4 of its lines are no rollouts",
        ),
    ],
)
def test_broken_files_are_named(run: Path, name: str, content: bytes, note: str) -> None:
    (run / name).write_bytes(content)
    assert note in "\n".join(load(run).notes)


def test_a_file_that_is_written_still_is_read_as_far_as_it_goes(run: Path) -> None:
    file = next(run.glob("events*"))
    whole = file.read_bytes()
    before = read_scalars(run)[0]
    file.write_bytes(whole[:-7])
    scalars, problems = read_scalars(run)
    assert len(problems) == 1 and "no whole record" in problems[0]
    assert scalars["reward"] == before["reward"]
    rollouts = run / "rollouts" / "validate_step000003.jsonl"
    rollouts.write_bytes(rollouts.read_bytes()[:-7])
    loaded = load(run)
    assert "1 of its lines are no rollouts" in "\n".join(loaded.notes)
    assert len(loaded.evaluated[-1].problems) == 4


def test_records_with_strange_values_are_taken_for_what_they_are(run: Path) -> None:
    file = run / "rollouts" / "validate_step000003.jsonl"
    record = json.loads(file.read_text().splitlines()[0])
    strange = [
        record | {"reward": "nan", "rewards": {"x": "inf"}, "tokens": 10**400, "problem_id": "strange"},
        record | {"kind": "meta", "correct": None, "prediction": {"pass_rate": 9, "pass_rate_scale": 8}},
        record | {"kind": "meta", "correct": None, "prediction": [1], "rewards": None},
        record | {"text": 3}, record | {"step": "3"}, record | {"correct": 1}, record | {"kind": "other"},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(each) + "\n" for each in strange) + "[" * 100000 + "\n" + "9" * 5000 + "\n")
    loaded = load(run)
    problems = {r.id: r for r in loaded.evaluated[-1].problems}
    assert problems["strange"].rollouts[0]["reward"] is None
    assert problems["strange"].rollouts[0]["tokens"] is None
    assert problems[record["problem_id"]].rates == []
    assert "6 of its lines are no rollouts" in "\n".join(loaded.notes)


def test_an_alias_bomb_and_unknown_tags_are_no_danger(tmp_path: Path) -> None:
    letters = zip("abcdefgh", "bcdefghi", strict=True)
    bomb = "a: &a [[1], [1]]\n" + "".join(f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}]\n" for p, c in letters)
    (tmp_path / "config.yaml").write_text(bomb)
    flat, _, notes = read_settings(tmp_path)
    assert len(flat) == 2000 and "more than 2000 settings" in notes[0]
    (tmp_path / "config.yaml").write_text("a: &a [*a, 1]\nb: 2\n")
    flat, _, notes = read_settings(tmp_path)  # a list that holds itself
    assert flat["a.1"] == "1" and flat["b"] == "2" and len(flat) < 50 and not notes
    (tmp_path / "config.yaml").write_text("a: !!python/object/apply:os.system [exit 1]\nb: 2\n")
    flat, _, notes = read_settings(tmp_path)
    assert flat["b"] == "2" and not notes


def test_an_empty_run_says_all_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    notes = "\n".join(load(tmp_path).notes)
    assert all(what in notes for what in ("no metrics", "no settings", "no rollouts"))


def test_where_there_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, what in (
        (tmp_path / "none", "is not there"),
        (tmp_path / "file", "is a file"),
        (tmp_path, "holds no run"),
    ):
        with pytest.raises(FileNotFoundError, match=what):
            find_runs([path])


def test_a_run_without_rollouts_of_validations_says_so(run: Path) -> None:
    (run / "rollouts").rename(run / "elsewhere")
    assert "no rollouts of validations" in "\n".join(load(run).notes)


def test_no_figure_breaks_a_page(tmp_path: Path) -> None:
    names = [
        "reward",
        "val/pass@1",
        "val/pass@1_low",
        "val/pass@1_high",
        "pass_rate",
        "val/calibration/pass_rate/count",
    ]
    names += [
        f"val/calibration/pass_rate/{name}" for name in ("pearson", "predicted_mean", "predicted_std", "actual_mean")
    ]
    names += ["tokens_total/solution", "timing_s/step", "controls/x/share", "test/pass@1", "test/<b>/pass@1"]
    values = ["1e308", "-1e29", "1e29", "nan", "inf", "0", "-5", "1", "0.5", "1e-300"]
    steps = [-(2**62), -1, 0, 1, 2, 30, 2**62]
    rows = [[str(step), *(values[(n + k) % len(values)] for n in range(len(names)))] for k, step in enumerate(steps)]
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "config.yaml").write_text(f"seed_everything: {seed}")
        turned = [row if seed < 2 else row[:1] + row[:0:-1] for row in rows]
        text = "\n".join(",".join(row) for row in [["step", *names], *turned])
        (tmp_path / str(seed) / "metrics.csv").write_text(text)
    (tmp_path / "0" / "results.json").write_text(
        '{"benchmarks": [{"name": "b", "problems": 3, "metrics": {"pass@1": NaN, "maj@8": 1e999, "x": 1e308}}]}'
    )
    assert len(arms(load_runs(find_runs([tmp_path])))) == 1
    for folders in ([tmp_path], [tmp_path / "0"]):
        assert "</html>" in page(contents(load_runs(find_runs(folders))))
