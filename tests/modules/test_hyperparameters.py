"""A checkpoint holds the arguments of its module as plain values, and a module is made of it again."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from training_loop import Loop

from masa_lightning import (
    AdamW,
    Algorithm,
    AnswerGrader,
    Evaluation,
    GRPOLightningModule,
    LoRA,
    MASALightningModule,
    MathGrader,
    Optimization,
    PassRate,
    PromptTemplates,
    SamplingSettings,
    SolutionLength,
    TransformersSampler,
)
from masa_lightning.models import loading
from masa_lightning.modules.hyperparameters import allowed_class, read_record
from masa_lightning.modules.plain import plain
from masa_lightning.types import Problem

pytestmark = pytest.mark.filterwarnings("ignore:.*`load_from_checkpoint`")


@dataclass(frozen=True)
class Style:
    """A user's settings."""

    words: tuple[str, ...] = ()


class Brief:
    """A user's reward."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, problem: Problem, completions: Sequence[str]) -> Sequence[float]:
        return [-len(c) * self.scale for c in completions]


class Mine(MASALightningModule):
    """A user's module, with arguments of its own before those of MASA, one of which it sets itself."""

    def __init__(self, alpha: float, style: Style = Style(), **settings: Any) -> None:
        super().__init__(optimization=Optimization(optimizer=partial(AdamW, lr=alpha / 10)), **settings)
        self.save_hyperparameters()  # as Lightning's pages do; it is done already
        self.alpha, self.style = alpha, style


SETTINGS: dict[str, Any] = {
    "grader": AnswerGrader(math=MathGrader(workers=1, timeout=3.0)),
    "num_generations": 4,
    "num_meta_generations": 3,
    "pass_rate_scale": 5,
    "meta_reward_weights": {"length": 1.0, "difficulty": 2.0, "notion": 0.0},
    "sampling": SamplingSettings(temperature=0.7, stop=("\n\n",)),
    "evaluation": Evaluation(num_generations=2, num_meta_generations=1, pass_at=(2,)),
    "algorithm": Algorithm(loss_type="gspo"),
    "chat_template_kwargs": {"enable_thinking": False},
}


def saved(loop: Loop, module: Any, folder: Path, **settings: Any) -> Path:
    """A checkpoint after one step."""
    path = folder / "run.ckpt"
    loop.fit(module, loop.Problems(2), **settings).trainer.save_checkpoint(path)
    return path


def test_a_module_is_made_again_of_its_checkpoint_alone(loop: Loop, tmp_path: Path) -> None:
    module = loop.module(sampler=TransformersSampler(batch_size=5), **SETTINGS)
    loaded = MASALightningModule.load_from_checkpoint(saved(loop, module, tmp_path))
    for name in ("num_generations", "num_meta_generations", "sampling"):
        assert getattr(loaded, name) == SETTINGS[name]
    assert loaded.quantities.pass_rate_scale == loaded.meta.pass_rate_scale == SETTINGS["pass_rate_scale"]
    assert loaded.meta_scorer.weights == loaded.meta.reward_weights == SETTINGS["meta_reward_weights"]
    for name in ("evaluation", "algorithm", "chat_template_kwargs"):
        assert getattr(loaded, name) == SETTINGS[name]
    assert loaded.prompts == PromptTemplates(solution="S:{problem}", meta="M:{problem}")
    assert (type(loaded.sampler), loaded.sampler.batch_size) == (TransformersSampler, 5)
    assert isinstance(loaded.scorer.grader, AnswerGrader)
    assert (loaded.scorer.grader.math.workers, loaded.scorer.grader.math.timeout) == (1, 3.0)
    assert not loop.changed(loop.weights(module), loop.weights(loaded))
    loop.trainer().validate(loaded, loop.Problems(2, 2), verbose=False)
    again = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert loaded.hparams == again["hyper_parameters"] == module.hparams


def test_a_list_of_quantities_is_made_again(loop: Loop, tmp_path: Path) -> None:
    prompts = PromptTemplates(solution="S:{problem}", meta="pass_rate, solution_length? {problem}")
    quantities = [SolutionLength(), PassRate(scale=4, scoring="brier")]
    module = loop.module(quantities=quantities, prompts=prompts, max_prompt_length=60, sampler=TransformersSampler())
    loaded = MASALightningModule.load_from_checkpoint(saved(loop, module, tmp_path))
    assert loaded.quantities.names == ["solution_length", "pass_rate"]
    assert loaded.quantities.questions() == module.quantities.questions()
    assert loaded.quantities.pass_rate_scale == 4


def test_one_of_a_user_has_to_be_given(loop: Loop, tmp_path: Path) -> None:
    class Own(PassRate): ...

    prompts = PromptTemplates(solution="S:{problem}", meta="pass_rate, solution_length? {problem}")
    module = loop.module(quantities=[Own()], prompts=prompts, max_prompt_length=60, sampler=TransformersSampler())
    path = saved(loop, module, tmp_path)
    with pytest.raises(ValueError, match=r"names objects that are not made from a checkpoint.*Own"):
        MASALightningModule.load_from_checkpoint(path)
    assert MASALightningModule.load_from_checkpoint(path, quantities=[Own()]).quantities.names == ["pass_rate"]


def test_what_is_given_takes_the_place_of_the_checkpoints(loop: Loop, tmp_path: Path) -> None:
    path = saved(loop, loop.module(sampler=TransformersSampler(batch_size=5), **SETTINGS), tmp_path)
    loaded = MASALightningModule.load_from_checkpoint(str(path), num_generations=2, sampler=TransformersSampler())
    assert (loaded.num_generations, loaded.sampler.batch_size, loaded.num_meta_generations) == (2, 64, 3)


@pytest.mark.parametrize("kind", [Mine, MASALightningModule])
def test_a_subclass_with_arguments_of_its_own(loop: Loop, tmp_path: Path, kind: type[MASALightningModule]) -> None:
    """It is what the checkpoint is loaded as, wherever it is imported."""
    settings = {"model": str(loop.checkpoint), "max_prompt_length": 16, "max_completion_length": 8, "seed": 0}
    prompts = PromptTemplates(solution="S:{problem}", meta="M:{problem}")
    module = Mine(0.3, style=Style(words=("a",)), sampler=TransformersSampler(), prompts=prompts, **settings)
    loaded: Any = kind.load_from_checkpoint(saved(loop, module, tmp_path))
    assert type(loaded) is Mine
    assert (loaded.alpha, loaded.optimization.optimizer.keywords, loaded.seed) == (0.3, {"lr": 0.03}, 0)
    assert loaded.style == Style(words=("a",)) == module.style
    optimizer = module.hparams_initial["optimization"]["optimizer"]  # what loggers show
    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == ("masa_lightning.AdamW", 0.03)
    assert module.hparams_initial["num_generations"] == 8


def test_a_subclass_that_is_not_imported_is_refused(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": str(loop.checkpoint), "max_prompt_length": 16, "max_completion_length": 8}
    prompts = PromptTemplates(solution="S:{problem}", meta="M:{problem}")
    path = saved(loop, Mine(0.3, sampler=TransformersSampler(), prompts=prompts, **settings), tmp_path)
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(ValueError, match=r"by .*test_hyperparameters\.Mine, .*expected Mine\.load_from_checkpoint"):
        MASALightningModule.load_from_checkpoint(path)
    assert __name__ not in sys.modules
    assert type(Mine.load_from_checkpoint(path)) is Mine


@pytest.mark.parametrize("reward", [Brief(2.0), lambda problem, completions: [0.0] * len(completions)])
def test_objects_that_are_not_ours_are_asked_for_by_name(loop: Loop, tmp_path: Path, reward: Any) -> None:
    path = saved(loop, loop.module(sampler=TransformersSampler(), reward_functions=[reward]), tmp_path)
    name = r"Brief" if isinstance(reward, Brief) else r"<lambda>"
    message = (
        rf"reward_functions\[0\]: .*test_hyperparameters\.{name}.*MASALightningModule.load_from_checkpoint\(path, NAME"
    )
    with pytest.raises(ValueError, match=message):
        MASALightningModule.load_from_checkpoint(path)
    loaded = MASALightningModule.load_from_checkpoint(path, reward_functions=[reward])
    assert [*loaded.scorer.functions.values()] == [reward]
    assert loaded.num_generations == 3


class Planted:
    """What a stranger names."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1


@pytest.mark.parametrize(
    "planted",
    [
        {"class_path": f"{__name__}.Planted"},
        {"class_path": f"{__name__}.Planted", "init_args": {}},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "ran"]}},
        {"class_path": "masa_lightning.grading.math_grader._Worker"},
        {"class_path": "masa_lightning.grading.math_grader.subprocess"},
        {"class_path": "masa_lightning.TransformersSampler", "init_args": {"batch_size": {"class_path": "os.system"}}},
        {"class_path": "masa_lightning.TransformersSampler", "init_args": {"nosuch": 1}},
        {"class_path": "masa_lightning.TransformersSampler", "init_args": [1]},
        {"class_path": "masa_lightning.cli.__main__.Planted"},
        f"{__name__}.Planted",
    ],
)
def test_a_strangers_checkpoint_makes_nothing(loop: Loop, tmp_path: Path, planted: Any) -> None:
    path = saved(loop, loop.module(GRPOLightningModule, sampler=TransformersSampler()), tmp_path)
    evil = torch.load(path, weights_only=True)
    evil["hyper_parameters"] |= {"sampler": planted, "_instantiator": "lightning.pytorch.cli.instantiate_module"}
    torch.save(evil, path)
    with pytest.raises(ValueError, match=r"objects that are not made .*: sampler"):
        GRPOLightningModule.load_from_checkpoint(path)
    GRPOLightningModule.load_from_checkpoint(path, sampler=TransformersSampler())
    assert not Planted.made


@pytest.mark.parametrize(
    "planted",
    [
        {"hparams": {"chat_template": "/etc/hostname"}},
        {"module_arguments": {"chat_template": "/etc/hostname"}},
        {"hparams_name": "chat_template"},
    ],
)
def test_settings_in_other_places_of_a_checkpoint(loop: Loop, tmp_path: Path, planted: dict[str, Any]) -> None:
    """Lightning reads those of its earlier versions too, after ours were looked at."""
    path = saved(loop, loop.module(sampler=TransformersSampler()), tmp_path)
    evil = torch.load(path, weights_only=True)
    evil["hyper_parameters"].pop("chat_template")
    torch.save(evil | planted, path)
    with pytest.raises(ValueError, match=f"settings in places where this package writes none: {next(iter(planted))}"):
        MASALightningModule.load_from_checkpoint(path)


def test_a_chat_template_of_a_checkpoint_that_hides_its_state(loop: Loop, tmp_path: Path) -> None:
    path = saved(loop, loop.module(sampler=TransformersSampler()), tmp_path)
    evil = torch.load(path, weights_only=True)
    del evil["masa"]
    evil["hyper_parameters"]["chat_template"] = "/etc/hostname"
    torch.save(evil, path)
    assert read_record(path).settings["chat_template"] is None


def test_a_chat_template_is_kept_as_its_text(loop: Loop, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(loading.load_tokenizer(str(loop.checkpoint)).chat_template + "{# mine #}")
    module = loop.module(sampler=TransformersSampler(), chat_template=str(template))
    path = saved(loop, module, tmp_path)
    template.unlink()
    assert MASALightningModule.load_from_checkpoint(path).chat_template.endswith("{# mine #}")
    evil = torch.load(path, weights_only=True)
    evil["masa"]["chat_template"] = "/etc/hostname"
    torch.save(evil, path)
    with pytest.raises(ValueError, match="'/etc/hostname' as its chat template; expected Jinja text"):
        MASALightningModule.load_from_checkpoint(path)


def test_loras_come_back(loop: Loop, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    module = loop.module(sampler=TransformersSampler(), lora=LoRA(rank=2, targets=("q_proj",)))
    loaded = MASALightningModule.load_from_checkpoint(saved(loop, module, tmp_path))
    assert loaded.lora == module.lora
    assert not loop.changed(loop.weights(module), loop.weights(loaded))


def test_loggers_get_all_settings(loop: Loop, tmp_path: Path) -> None:
    module = loop.module(sampler=TransformersSampler(batch_size=5), **SETTINGS)
    loop.fit(module, loop.Problems(2), logger=CSVLogger(tmp_path, name="", version=""))
    written = yaml.safe_load((tmp_path / "hparams.yaml").read_text())
    assert written == module.hparams_initial
    assert written["sampler"] == {"class_path": "masa_lightning.TransformersSampler", "init_args": {"batch_size": 5}}
    assert written["algorithm"]["clip_high"] == 4e-4
    assert written["optimization"]["max_grad_norm"] == 1.0
    assert written["optimization"]["optimizer"]["init_args"]["lr"] == 1e-2
    assert "needs_reference" not in written  # no argument of the class


def test_secrets_are_not_kept() -> None:
    class Judge:
        def __init__(self, api_key: str, url: str = "x") -> None:
            self.api_key, self.url = api_key, url

    written = plain({"judge": Judge("s3cret"), "chat": {"hf_token": "s3cret", "a": 1}})
    assert "s3cret" not in str(written)
    assert written["judge"]["not_kept"] == ["api_key"]
    assert written["chat"] == {"a": 1, "not_kept": ["hf_token"]}


def test_checkpoints_of_earlier_versions_say_nothing(loop: Loop, tmp_path: Path) -> None:
    path = saved(loop, loop.module(sampler=TransformersSampler()), tmp_path)
    old = torch.load(path, weights_only=True)
    del old["hyper_parameters"], old["masa"]["class_path"]
    torch.save(old, path)
    assert read_record(path).settings == {}


def test_settings_that_are_no_more_are_left_out(loop: Loop, tmp_path: Path) -> None:
    path = saved(loop, loop.module(sampler=TransformersSampler()), tmp_path)
    old = torch.load(path, weights_only=True)
    old["hyper_parameters"] |= {"inference": {"solve": True}, "max_grad_norm": 0.5}
    torch.save(old, path)
    loaded = MASALightningModule.load_from_checkpoint(path)
    assert (loaded.evaluation.solve, loaded.optimization.max_grad_norm) == (False, 0.5)


def test_arguments_are_written_once() -> None:
    """In the class that uses them: the others pass them on, and still keep them with their defaults."""
    own = [
        {n for n, p in inspect.signature(kind.__init__).parameters.items() if p.kind == p.KEYWORD_ONLY}
        for kind in MASALightningModule.__mro__[:3]
    ]
    assert all(own) and len(set.union(*own)) == sum(map(len, own))
    module = MASALightningModule("tiny", TransformersSampler(), seed=3)
    assert {*module.hparams} == {"model", "sampler"}.union(*own)
    assert (module.hparams["seed"], module.hparams["num_generations"], module.hparams["dtype"]) == (3, 8, "float32")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_generatons": 4}, "Mine has no argument 'num_generatons'; did you mean 'num_generations'?"),
        ({"learning_rate": 1e-6}, "Mine has no argument 'learning_rate' any more; expected optimization.optimizer.lr"),
        ({"settings": {}}, "Mine has no argument 'settings'; "),
    ],
)
def test_an_argument_that_no_class_takes_is_refused_by_the_class_that_was_called(
    given: dict[str, Any], said: str
) -> None:
    class Mine(MASALightningModule):
        pass

    with pytest.raises(TypeError) as raised:
        Mine("tiny", TransformersSampler(), **given)
    assert str(raised.value).startswith(said)


def test_what_is_noted_beside_the_arguments_does_not_hinder(loop: Loop, tmp_path: Path) -> None:
    module = loop.module(seed=5)
    module.save_hyperparameters({"note": "of mine"})
    module.hparams["another"] = 3
    path = saved(loop, module, tmp_path)
    assert torch.load(path, weights_only=True)["hyper_parameters"]["note"] == "of mine"
    assert MASALightningModule.load_from_checkpoint(path, sampler=TransformersSampler()).seed == 5
    assert not {"note", "another"} & read_record(path).settings.keys()  # of which `masa predict` makes its words


class PassesOn(MASALightningModule):
    def __init__(self, *args: Any, bonus: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bonus = bonus


def test_a_subclass_that_passes_on_what_it_does_not_name(loop: Loop, tmp_path: Path) -> None:
    """Its checkpoint missed the model, where it was given by place."""
    by_name: dict[str, Any] = {
        "bonus": 2.0,
        "num_generations": 2,
        "seed": 4,
        "max_prompt_length": 16,
        "max_completion_length": 8,
    }
    by_name |= {"prompts": PromptTemplates(solution="S:{problem}", meta="M:{problem}")}
    for module in (
        PassesOn(str(loop.checkpoint), TransformersSampler(), **by_name),
        PassesOn(model=str(loop.checkpoint), sampler=TransformersSampler(), **by_name),
    ):
        loaded = PassesOn.load_from_checkpoint(saved(loop, module, tmp_path))
        assert (loaded.bonus, loaded.num_generations, loaded.seed) == (2.0, 2, 4)
        assert (loaded.model_name, type(loaded.sampler)) == (str(loop.checkpoint), TransformersSampler)


def test_classes_that_may_be_made() -> None:
    assert allowed_class("masa_lightning.TransformersSampler") is TransformersSampler
    assert allowed_class("masa_lightning.modules.masa.MASALightningModule") is MASALightningModule
    assert allowed_class("masa_lightning.modules.grader.MathGrader") is MathGrader  # where it was in version 0.1
    gym = "masa_lightning.data.reasoning_gym.ReasoningGymGrader"  # whose scorers evaluate what a model wrote
    for path in (gym, "masa_lightning.cli.__main__.main"):
        assert allowed_class(path) is None
    for path in (
        "os.system",
        "masa_lightning",
        "masa_lightning.no.Such",
        "masa_lightning.grading.math_grader._Worker",
        5,
    ):
        assert allowed_class(path) is None


def test_a_checkpoint_of_an_earlier_version_says_so(loop: Loop, tmp_path: Path) -> None:
    path = saved(loop, loop.module(MASALightningModule, sampler=TransformersSampler()), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    model = checkpoint.pop("hyper_parameters")["model"]
    torch.save(checkpoint, path)
    with pytest.raises(
        ValueError, match=r"with which settings it was trained, as those of earlier versions; expected them"
    ):
        MASALightningModule.load_from_checkpoint(path)
    with pytest.warns(UserWarning, match="earlier versions: all but model, sampler are the defaults. Give those"):
        module = MASALightningModule.load_from_checkpoint(path, model=model, sampler=TransformersSampler())
    assert module.policy is not None


def test_an_object_of_another_kind_is_refused_when_it_is_given(loop: Loop, tmp_path: Path) -> None:
    path = saved(loop, loop.module(MASALightningModule, sampler=TransformersSampler()), tmp_path)
    wrong: list[tuple[str, Any, str]] = [
        (
            "sampler",
            "vllm",
            r"'vllm'; expected an object of Sampler, such as VLLMSampler\(\) \(it has no setup, .*wake\)",
        ),
        ("sampler", TransformersSampler, "the class TransformersSampler, not an object of it; expected an object of"),
        ("grader", AnswerGrader, r"<class .*AnswerGrader'> \(type\); expected an object with a plain method `grade"),
        ("reward_functions", [1.0], r"1.0 \(float\), which is not callable"),
        ("prompts", {"solution": "S {problem}"}, ".*; expected an object of PromptTemplates"),
        ("sampling", 1.0, "1.0; expected an object of SamplingSettings"),
        ("evaluation", Algorithm(), r"Algorithm\(.*; expected an object of Evaluation"),
        ("algorithm", "gspo", "'gspo'; expected an object of Algorithm"),
        ("lora", 8, "8; expected an object of LoRA"),
    ]
    for name, value, said in wrong:
        with pytest.raises(TypeError, match=rf"{name}(\[0\])? is {said}"):
            MASALightningModule.load_from_checkpoint(path, **{name: value})


def test_a_dictionary_without_what_may_be_secret_is_not_taken_for_whole(loop: Loop, tmp_path: Path) -> None:
    """Or prompts, say, would be others without a word."""
    given = {"bos_token": "<s>", "hub": {"api_key": "abc", "size": 3}}
    module = loop.module(chat_template_kwargs=given, sampler=TransformersSampler())
    assert module.hparams["chat_template_kwargs"] == {"bos_token": "<s>", "hub": {"size": 3, "not_kept": ["api_key"]}}
    path = saved(loop, module, tmp_path)
    with pytest.raises(ValueError, match=r"chat_template_kwargs\.hub: a dictionary \(without api_key\)"):
        MASALightningModule.load_from_checkpoint(path)
    assert MASALightningModule.load_from_checkpoint(path, chat_template_kwargs=given).chat_template_kwargs == given
