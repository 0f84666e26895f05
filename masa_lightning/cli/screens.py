"""What `masa fit|validate|test|predict --help` shows: a screen of what a newcomer needs, at once."""

from __future__ import annotations

from typing import Final

_CONFIG: Final = """\
  --config NAME         a configuration that comes along (`masa configs` lists
                        them) or your own YAML; several are laid over each other
"""
_RUN: Final = """\
  --ckpt_path RUN       folder of a run, or one of its checkpoints; model,
                        problems and settings are then those of that run
"""
_MODEL: Final = """\
  --model.model PATH    a Hugging Face model, in place of the configuration's
"""
_MORE: Final = """\
  --trainer.devices N   GPUs or processes; --trainer.accelerator cpu for no GPU
  --print_config        all that would be used, as YAML

  --model.help MASALightningModule    settings of the module
  --data.help {data:<24}settings of the problems
  --help=all                          every option, Lightning's Trainer's too
"""
_SCREENS: Final = {
    "fit": f"""\
usage: masa fit --config NAME [--config NAME ...] [--OPTION VALUE ...]

Train a model. Each key of a configuration is an option, too.

  masa fit --config tiny
  masa fit --config tiny --config with/grpo --trainer.max_steps 16

{_CONFIG}\
  --ckpt_path last      go on after an interruption
  --trainer.logger.name NAME          write into the folder runs/NAME
  --trainer.max_steps N               training steps
{_MODEL}\
  --data.train FILE     your problems, with --data MathDataModule
  --model.optimization.optimizer.lr X learning rate
  --seed_everything N   seed
{_MORE.format(data="MathDataModule")}""",
    "validate": f"""\
usage: masa validate --ckpt_path RUN [--OPTION VALUE ...]

Measure a checkpoint on the validation problems of its run, in RUN/validate-1.

  masa validate --ckpt_path runs/tiny

{_RUN}\
  --config NAME         in place of the run's settings: a configuration
  --data.validation FILE              other problems
  --model.evaluation.num_generations N  solutions of a problem
{_MORE.format(data="MathDataModule")}""",
    "test": f"""\
usage: masa test (--ckpt_path RUN | --config NAME) [--OPTION VALUE ...]

Measure a checkpoint on its run's test problems, or any model on benchmarks.

  masa test --ckpt_path runs/tiny
  masa test --config eval/math --model.model PATH

{_RUN}{_CONFIG}{_MODEL}\
  --data.benchmarks [aime24,math500]  which benchmarks
  --data.max_problems N               a quick look, at the first of each
  --model.evaluation.pass_at [8]      pass@k
{_MORE.format(data="BenchmarkDataModule")}""",
    "predict": f"""\
usage: masa predict (--ckpt_path RUN | --config predict) --problem TEXT [...]

Predict how problems will go: pass rate, length, notions.

  masa predict --ckpt_path runs/tiny --problem "Compute 354 mod 7."
  masa predict --config predict --model.model PATH --problems FILE --solve

{_RUN}{_MODEL}\
  --problem TEXT        a problem; once or more
  --problems FILE       .txt (a problem a line), .jsonl, .json or .parquet
  --solve               solve them too, and say what the predictions saved
  --model.evaluation.num_meta_generations N  predictions of a problem
  --trainer.logger.name NAME          write into the folder runs/NAME
{_MORE.format(data="TextDataModule")}""",
}


def screen(command: str) -> str:
    """What `masa COMMAND --help` prints: 24 lines of 80 columns at most, for "fit", "validate", "test" or "predict"."""
    return _SCREENS[command]


def asks_for_all(words: list[str]) -> bool | None:
    """Whether words ask for every option, with ``--help=all`` or ``--help all``; None if they ask for no help.

    >>> asks_for_all(["fit", "--help"]), asks_for_all(["fit", "--help=all"]), asks_for_all(["fit", "--config", "tiny"])
    (False, True, None)
    """
    if "--help=all" in words:
        return True
    asked = next((index for index, word in enumerate(words) if word in ("-h", "--help")), None)
    return None if asked is None else words[asked + 1 : asked + 2] == ["all"]
