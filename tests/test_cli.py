"""The real command line, in this process: what it trains, and what it says when something is wrong."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

import masa_lightning
from masa_lightning import cli
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models import loading
from masa_lightning.models.tiny import PROMPTS
from masa_lightning.modules.defaults import fitting_prompts
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.types import Problem

pytestmark = [
    pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty"),
    pytest.mark.timeout(120),
]


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """Own folder, arguments and random state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards: seed_everything sets it
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def config(checkpoint, **model):
    """A whole configuration, as from a user's YAML."""
    return {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": "x", "version": ""},
            },
        },
        "model": {
            "class_path": "masa_lightning.MASALightningModule",
            "init_args": {
                "model": str(checkpoint),
                "sampler": {"class_path": "masa_lightning.TransformersSampler"},
                "prompts": {"solution": "S:{problem}", "meta": "M:{problem}"},
                "num_generations": 2,
                "num_meta_generations": 2,
                "max_prompt_length": 64,
                "max_completion_length": 6,
                "optimization": {"optimizer": {"init_args": {"lr": 0.01}}},
                "evaluation": {"num_generations": 2, "num_meta_generations": 1},
                **model,
            },
        },
        "data": {
            "class_path": "masa_lightning.MathDataModule",
            "init_args": {"train": "train.jsonl", "validation_size": 2, "batch_size": 2, "val_batch_size": 2},
        },
    }


def write(settings, rows=None):
    """Writes the configuration and the problems; returns the arguments that name it."""
    rows = rows or [{"problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(8)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", "run.yaml"]


def logged():
    header, *rows = (line.split(",") for line in Path("runs/x/metrics.csv").read_text().splitlines())
    return [{name: float(v) for name, v in zip(header, row, strict=True) if v} for row in rows]


def error_of(capsys, args):
    """What the command writes when its arguments are wrong."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_fit_then_test(tiny_checkpoint):
    settings = config(tiny_checkpoint, reward_functions=[FEW_LETTERS])
    settings["trainer"]["enable_checkpointing"] = True
    settings["trainer"]["callbacks"] = [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "checkpoints", "every_n_train_steps": 1, "save_last": True, "save_top_k": 0},
        }
    ]
    args = write(settings)
    fitted = cli.main(["fit", *args])
    assert fitted.trainer.global_step == 2
    assert type(fitted.model) is MASALightningModule
    training = [row for row in logged() if "reward" in row]
    assert [row["tokens/meta"] > 0 for row in training] == [True, True]
    before = dict(loading.load_model(str(tiny_checkpoint), "float32").named_parameters())
    trained = dict(fitted.model.policy.model.named_parameters())
    assert any(not torch.equal(trained[name], value) for name, value in before.items())

    settings["data"]["init_args"] = {"test": "train.jsonl", "test_split": "train", "val_batch_size": 4}
    tested = cli.main(["test", *write(settings), "--ckpt_path", "checkpoints/last.ckpt"])
    for name, value in tested.model.policy.model.named_parameters():
        assert torch.equal(value, trained[name])
    assert "test/pass@1" in tested.trainer.callback_metrics
    assert "test/calibration/pass_rate/mae" in tested.trainer.callback_metrics


def test_the_installed_command_ends_with_status_0(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["masa", "fit", *write(config(tiny_checkpoint))])
    with pytest.raises(SystemExit) as stopped:
        sys.exit(cli.main())  # as its script does
    assert stopped.value.code is None
    assert logged()


def test_the_seed_of_the_command_seeds_the_rollouts(tiny_checkpoint):
    def run(seed):
        metrics = cli.main(
            ["fit", *write(config(tiny_checkpoint)), f"--seed_everything={seed}"]
        ).trainer.callback_metrics
        return [metrics[name].item() for name in ("entropy", "grad_norm", "sampling/importance_sampling_ratio/max")]

    first = run(3)
    assert run(3) == first
    assert run(4) != first


def test_the_baseline_is_one_key_away(tiny_checkpoint):
    args = ["fit", *write(config(tiny_checkpoint)), "--model.init_args.num_meta_generations=0"]
    command = cli.main(args)
    assert command.trainer.global_step == 2
    training = [row for row in logged() if "reward" in row]
    assert [row["tokens/meta"] for row in training] == [0, 0]
    assert all(row["tokens/solution"] > 0 for row in training)


def test_grpo_module(tiny_checkpoint):
    settings = config(tiny_checkpoint)
    settings["model"]["class_path"] = "masa_lightning.GRPOLightningModule"
    del settings["model"]["init_args"]["num_meta_generations"]
    assert cli.main(["fit", *write(settings)]).trainer.global_step == 2


def test_algorithm_and_rewards_by_class_path(tiny_checkpoint):
    settings = config(
        tiny_checkpoint,
        algorithm={"loss_type": "cispo", "clip_low": 1.0, "kl_coef": 0.1},
        reward_functions=[FEW_LETTERS],
        reward_weights=[0.5],
    )
    cli.main(["fit", *write(settings)])
    first = next(row for row in logged() if "reward" in row)
    assert 0 < first["rewards/FewLetters/mean"] <= 6 / 4  # at most six tokens of one character
    assert first["reward"] == pytest.approx(first["pass_rate"] + 0.5 * first["rewards/FewLetters/mean"], rel=1e-5)
    assert first["kl"] == 0


class FewLetters:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, problem: Problem, completions: Sequence[str]) -> Sequence[float]:  # as the protocol is annotated
        return [sum(c < "A" for c in text) / self.scale for text in completions]


FEW_LETTERS = {"class_path": f"{__name__}.FewLetters", "init_args": {"scale": 4.0}}


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (("model", "init_args"), "num_generation"),
        (("model", "init_args", "prompts"), "solutions"),
        (("data", "init_args"), "batchsize"),
        (("trainer",), "max_stepz"),
        ((), "modle"),
    ],
)
def test_an_unknown_key_is_named(tiny_checkpoint, capsys, place, key):
    settings = config(tiny_checkpoint)
    inner = settings
    for name in place:
        inner = inner[name]
    inner[key] = 7
    message = error_of(capsys, ["fit", *write(settings)])
    assert key in message
    assert "has no setting" in message or "there is no option" in message


def test_an_unknown_choice_is_named(tiny_checkpoint, capsys):
    settings = config(tiny_checkpoint, algorithm={"loss_type": "ppo"})
    message = error_of(capsys, ["fit", *write(settings)])
    assert "loss_type" in message
    assert "ppo_clip" in message


def test_no_such_model(tiny_checkpoint):
    with pytest.raises(
        FileNotFoundError, match=r"model './no/such/model' was not found: .*Give the path of a Hugging Face"
    ):
        cli.main(["fit", *write(config(tiny_checkpoint)), "--model.init_args.model=./no/such/model"])


def test_no_answer_column(tiny_checkpoint):
    rows = [{"problem": f"{i}+1", "solved": str(i + 1)} for i in range(8)]
    with pytest.raises(ValueError, match=r"train\.jsonl' with the columns problem, solved: .*answer_column"):
        cli.main(["fit", *write(config(tiny_checkpoint), rows)])
    with pytest.raises(ValueError, match="reply"):
        cli.main(["fit", *write(config(tiny_checkpoint), rows), "--data.init_args.answer_column=reply"])
    command = cli.main(["fit", *write(config(tiny_checkpoint), rows), "--data.init_args.answer_column=solved"])
    assert command.trainer.global_step == 2


def test_no_chat_template(tiny_checkpoint, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"has no chat template, .*set model\.chat_template"):
        cli.main(["fit", *write(config(folder))])
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert cli.main(["fit", *write(config(folder, chat_template=template))]).trainer.global_step == 2


@pytest.mark.parametrize(
    "limits", [{"max_prompt_length": 300}, {"max_completion_length": 300}, {"max_prompt_length": 251}]
)
def test_limits_above_the_context(tiny_checkpoint, limits):
    sizes = {"max_prompt_length": 64, "max_completion_length": 6} | limits
    message = (
        f"max_prompt_length {sizes['max_prompt_length']} \\+ max_completion_length {sizes['max_completion_length']} = "
        f"{sum(sizes.values())} tokens, but model .* was made for 256"
    )
    with pytest.raises(ValueError, match=message):
        cli.main(["fit", *write(config(tiny_checkpoint, **limits))])


@pytest.mark.filterwarnings("ignore")
def test_the_closing_validation_comes_before_the_average_is_put_in_place(tiny_checkpoint, tmp_path):
    """Or the checkpoint, which is written again with its results, would go on from the average of the weights."""
    settings = config(tiny_checkpoint, reward_functions=[FEW_LETTERS])
    settings["trainer"] |= {
        "enable_checkpointing": True,
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}},
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": str(tmp_path), "every_n_train_steps": 1, "save_last": True},
            },
        ],
    }
    cli.main(["fit", *write(settings)])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["masa"]["run"]["validation"]["rollout_steps"] == saved["masa"]["rollout_steps"] == 2
    policy, average = saved["current_model_state"], saved["state_dict"]
    assert not all(torch.equal(policy[name], average[name]) for name in policy)


@pytest.mark.filterwarnings("ignore:problem .* is left out")
def test_prompts_longer_than_the_limit(tiny_checkpoint):
    with pytest.raises(ValueError, match="prompt of at most 3 tokens; raise max_prompt_length"):
        cli.main(["fit", *write(config(tiny_checkpoint, max_prompt_length=3)), "--validate_first=false"])


def test_no_vllm(tiny_checkpoint, monkeypatch):
    """As far as Python can tell."""
    version = importlib.metadata.version

    def missing(name):
        if name.startswith("vllm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "vllm", None)
    settings = config(tiny_checkpoint, sampler={"class_path": "masa_lightning.VLLMSampler"})
    message = r"found no vLLM; .* pip install 'masa_lightning\[cpu\]', or use TransformersSampler, which needs no vLLM"
    with pytest.raises(ImportError, match=message):
        cli.main(["fit", *write(settings)])


# -- the command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit", "expected masa fit --config tiny."),
        ("test", "expected masa test --ckpt_path RUN, or --config eval/math."),
        ("validate --seed_everything 1", "expected masa validate --ckpt_path RUN."),
        ("predict", 'expected masa predict --ckpt_path RUN --problem "Compute 354 mod 7.".'),
        ("fit --config with/grpo", "with/grpo is laid over a configuration; expected --config tiny --config with/grpo"),
        (
            "fit --config paper/masa",
            "paper/masa is laid over a configuration; expected --config masa --config paper/masa",
        ),
        ("trian --config tiny", "Did you mean `masa fit`?"),
        ("pedict --config tiny", "Did you mean `masa predict`?"),
    ],
)
def test_a_command_that_says_too_little_is_answered_with_one_that_works(words, said, capsys):
    with pytest.raises(SystemExit):
        cli.main(words.split())
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_a_command_is_a_screen(command, capsys):
    for words in ([command, "--help"], [command, "--config", "tiny", "-h"]):
        assert cli.main(words) is None
    first, second = capsys.readouterr().out.split(f"usage: masa {command} ")[1:]
    assert first == second
    lines = first.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    with pytest.raises(SystemExit):
        cli.main([command, "--help=all"])
    known = [*re.findall(r"--[\w.]+", capsys.readouterr().out), "--help", "--problem", "--problems", "--solve"]
    for option in re.findall(r"--[\w.]+", first):  # settings of a class are tried below
        assert option in known or option.startswith(("--model.", "--data.", "--trainer.logger."))


@pytest.mark.parametrize("words", [
    "fit --config tiny --trainer.logger.name x --model.optimization.optimizer.lr 1",
    "fit --config tiny --data MathDataModule --data.train FILE --model.model PATH",
    "validate --config tiny --data MathDataModule --data.validation FILE --model.evaluation.num_generations 3",
    "test --config eval/math --data.benchmarks [aime24,math500] --data.max_problems 3 --model.evaluation.pass_at [8]",
    "predict --config predict --model.model PATH --model.evaluation.num_meta_generations 3 --trainer.logger.name x",
])  # fmt: skip
def test_options_of_the_screens_are_there(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words.split(), "--print_config"])
    assert stopped.value.code == 0


@pytest.mark.parametrize("words", [["--help=all"], ["--help", "all"]])
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_all_options_of_a_command_begin_with_what_is_ours(command, words, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, *words])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: masa {command} [--config NAME ...]")
    assert said.index("configs` lists") < said.index("  --model.help") < said.index("  --trainer.max_steps")
    assert said.index("  --ckpt_path") < said.index("  --trainer.max_steps")
    titles = [said.index(f"\n{title}:\n") for title in ("What is trained", "On which problems", "Lightning's Trainer")]
    assert titles == sorted(titles)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_says_what_this_is_and_lists_all_commands(words, capsys):
    assert cli.main(words) is None
    printed = capsys.readouterr().out
    assert "MASA" in printed
    for command in ("fit", "validate", "test", "predict", "export", "report", "configs", "doctor", "--version"):
        assert f"  {command} " in printed or f"masa {command}" in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.split() == ["masa_lightning", masa_lightning.__version__]


def printed_config(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", *args, "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "text", ["Solve: {problem}", "a: b\nc: {problem}", "{problem}", '"Q": {problem}', "- {problem}"]
)
@pytest.mark.parametrize("option", ["model.init_args.prompts.solution", "model.prompts.solution"])
def test_text_with_a_colon_stays_text(capsys, option, text):
    prompts = printed_config(capsys, "--config", "tiny", f"--{option}", text)["model"]["init_args"]["prompts"]
    assert prompts["solution"] == text
    assert fitting_prompts("tiny", PromptTemplates(**prompts)) == replace(PROMPTS, solution=text)
    assert printed_config(capsys, "--config=tiny", f"--{option}={text}")["model"]["init_args"]["prompts"] == prompts


def test_braces_make_a_dictionary(capsys):
    printed = printed_config(capsys, "-c", "tiny", "--data.init_args", "{batch_size: 3}")
    assert printed["data"]["init_args"]["batch_size"] == 3


def test_classes_have_short_names(capsys):
    printed = printed_config(
        capsys,
        "--config",
        "tiny",
        "--data",
        "MathDataModule",
        "--trainer.callbacks+=ExpertSFT",
        "--model.sampler=TransformersSampler",
    )
    assert printed["model"]["init_args"]["sampler"]["class_path"] == "masa_lightning.TransformersSampler"
    assert printed["data"]["class_path"] == "masa_lightning.MathDataModule"
    assert printed["trainer"]["callbacks"][-1]["class_path"] == "masa_lightning.ExpertSFT"
    with pytest.raises(SystemExit):
        cli.main(["fit", "--model.help", "MASALightningModule"])
    assert "num_meta_generations" in capsys.readouterr().out


def test_a_constructor_says_what_is_wrong_and_no_more():
    with pytest.raises(ValueError, match=r"^num_generations is 1; expected") as raised:
        cli.main(["fit", "--config", "tiny", "--model.init_args.num_generations=1"])
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--config", "tiny"], "there is no command 'train'. Did you mean `masa fit`? Expected one of fit, "),
        (["tets"], "Did you mean `masa test`?"),
        (["xyz"], "there is no command 'xyz'. Expected one of fit"),
        (["fit", "--config", "tinny"], "no shipped configuration of that name. Did you mean tiny?"),
    ],
)
def test_wrong_names_are_found_before_torch_is_imported(words, said, tmp_path):
    script = "import sys\nfrom masa_lightning import cli\ntry:\n    cli.main(sys.argv[1:])\n"
    script += "finally:\n    print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout == "False\n"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_what_is_wrong_and_no_traceback(monkeypatch, capsys):
    """Of a constructor and of what runs later; `--debug` shows where it comes from."""
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "false")  # restored afterwards
    wrong = ["fit", "--config", "tiny", "--model.init_args.num_generations=1"]
    monkeypatch.setattr(sys, "argv", ["masa", *wrong])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    first, last = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("error: num_generations is 1; expected >= 2")
    assert "--debug" in last
    monkeypatch.setattr(sys, "argv", ["masa", "fit", "--config", "tiny", "--model.init_args.model=./no/such"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "error: model './no/such' was not found" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["masa", *wrong, "--debug"])
    with pytest.raises(ValueError, match="num_generations is 1"):
        cli.main()


def test_a_setting_that_lightning_refuses_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "false")  # restored afterwards
    monkeypatch.setattr(sys, "argv", ["masa", "fit", "--config", "tiny", "--trainer.strategy=dddp"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "error: You selected an invalid strategy name: `strategy='dddp'`" in capsys.readouterr().err


def test_what_is_no_mistake_of_the_users_keeps_its_traceback(monkeypatch, tiny_checkpoint):
    settings = config(tiny_checkpoint)
    settings["trainer"]["callbacks"] = [{"class_path": f"{__name__}.Broken"}]
    monkeypatch.setattr(sys, "argv", ["masa", "fit", *write(settings)])
    with pytest.raises(KeyError, match="broken"):
        cli.main()


class Broken(Callback):
    def setup(self, trainer, pl_module, stage):
        raise KeyError("broken")


def test_usage_names_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py"])
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help=all"])
    assert capsys.readouterr().out.startswith("usage: masa fit ")


def test_packages_that_do_not_fit_each_other_are_said_in_two_lines(tmp_path: Path) -> None:
    """As torchvision built for CUDA beside a torch for CPU, which fails in whatever imports it first."""
    broken = tmp_path / "jsonargparse" / "__init__.py"  # stands in for a package that breaks on import
    broken.parent.mkdir()
    broken.write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    command = [sys.executable, "-m", "masa_lightning.cli", "fit", "--config", "tiny"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(cli.__file__).parents[2]}"}

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "RuntimeError: operator torchvision::nms does not exist" in done.stderr
    assert "`masa doctor` says which do not" in done.stderr
