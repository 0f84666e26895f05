"""docs/trust.md, row by row: real hostile inputs, as a user would be handed them, and nothing of theirs runs."""

from __future__ import annotations

import ast
import functools
import http.server
import importlib
import json
import pickle
import re
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pyarrow
import pytest
import torch
import two_processes
import yaml
from hostile_files import Runs, ran
from huggingface_hub import ModelCard
from pyarrow import parquet
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from training_loop import Loop

import masa_lightning
from masa_lightning import LoRA, cli
from masa_lightning.callbacks._rollout_file import RolloutFile, to_line
from masa_lightning.data.math import MathDataModule
from masa_lightning.export import export_checkpoint
from masa_lightning.functional.markdown import code
from masa_lightning.functional.prompts import PromptTemplates, solution_messages
from masa_lightning.grading.math_grader import MathGrader
from masa_lightning.models import loading
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.saved_run import strange_model
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

ROOT = Path(__file__).parents[1]
SECRET = "-----BEGIN KEY----- {not jinja}"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A folder that hostile files make when they run."""
    return tmp_path / "ran"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's, which nobody else should read."""
    path = tmp_path / "home" / "id_rsa"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


@pytest.fixture
def checkpoint(loop: Loop, tmp_path: Path) -> Path:
    """A genuine checkpoint, trained with a template from a file."""
    template = tmp_path / "template.jinja"
    template.write_text(loading.load_tokenizer(str(loop.checkpoint)).chat_template + "{# mine #}")
    module = loop.module(GRPOLightningModule, chat_template=str(template))
    trainer = loop.fit(module, loop.Problems(2)).trainer
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    template.unlink()
    return tmp_path / "run.ckpt"


def changed(checkpoint: Path, out: Path, **settings: Any) -> Path:
    """A checkpoint as a stranger may send it."""
    saved = torch.load(checkpoint, weights_only=False)
    for name, value in settings.items():
        saved["masa" if name in saved["masa"] else name] = (
            saved["masa"] | {name: value} if name in saved["masa"] else value
        )
    torch.save(saved, out)
    return out


def test_the_page_and_this_file_have_the_same_list() -> None:
    page = (ROOT / "docs" / "trust.md").read_text()
    named = re.findall(r"`(test_\w+)`", page)
    here = {name for name in globals() if name.startswith("test_")} - {"test_the_page_and_this_file_have_the_same_list"}
    assert {*named} == here
    assert "docs/trust.md" in (ROOT / "README.md").read_text()


# -- the sources of this package ---------------------------------------------------------------------------------------

# Calls that may run what they are given, and the files in which they stand, with the reason.
_SANDBOXED = {
    "grading/programs/program_side.py",
    "grading/programs/script_side.py",
    "grading/programs/tests_side.py",
    "grading/sandbox/inside.py",
}
CALLS = {
    "exec": _SANDBOXED,
    "compile": _SANDBOXED,
    # What another process of this run sent, as torch's all_gather_object, and what `masa doctor` hands to its own children.
    "pickle.loads": {"distributed.py", "doctor/child.py"},
    "pickle.Unpickler": {"models/shards.py"},  # allows nothing but what does nothing
    "yaml.load": {"report/settings.py"},  # with a subclass of SafeLoader that makes names of all tags
}
TRUST = (
    "False",
    "trust_remote_code",
    "self.trust_remote_code",
    "given.trust_remote_code",
)  # what the user said, or none
FORBIDDEN = ("eval", "pickle.load", "yaml.full_load", "yaml.unsafe_load", "os.system")
FORBIDDEN += ("os.popen", "torch.hub.load", "joblib.load", "numpy.load", "np.load", "runpy.run_path", "dill.load")


def test_sources_have_no_other_way_to_run_what_they_read() -> None:
    for path in Path(masa_lightning.__file__).parent.rglob("*.py"):
        name = str(path.relative_to(Path(masa_lightning.__file__).parent))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                first = [None] * (len(arguments) - len(node.args.defaults) - len(node.args.kw_defaults))
                for argument, default in zip(
                    arguments, [*first, *node.args.defaults, *node.args.kw_defaults], strict=True
                ):
                    if argument.arg == "trust_remote_code":
                        assert default is None or ast.unparse(default) == "False", f"{name}: {node.name}"
            if isinstance(node, ast.ClassDef):
                assert not any(ast.unparse(b) == "pickle.Unpickler" and name not in CALLS["pickle.Unpickler"]
                               for b in node.bases), name  # fmt: skip
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in FORBIDDEN, f"{name}: {called}"
            assert called not in CALLS or name in CALLS[called], f"{name}: {called}"
            assert given.get("trust_remote_code", "False") in TRUST, f"{name}: {called}"
            assert given.get("shell", "False") == "False", f"{name}: {called}"
            if called == "yaml.load":
                assert issubclass(importlib.import_module("masa_lightning.report.settings")._Loader, yaml.SafeLoader)
            if called == "torch.load":
                assert given.get("weights_only") == "True", f"{name}: {called}"
            if called.endswith((".from_pretrained", ".from_config")) and not called.startswith("GenerationConfig"):
                assert given.get("trust_remote_code") in ("trust_remote_code", "False"), f"{name}: {called}"


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["archive", "plain"])
def test_a_checkpoint_that_is_a_pickle(
    loop: Loop, checkpoint: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # set for some other library
    evil = tmp_path / "evil.ckpt"
    if how == "archive":
        changed(checkpoint, evil, callbacks=Runs(mark))
    else:
        evil.write_bytes(pickle.dumps(Runs(mark)))
    torch.load(evil, weights_only=False) if how == "archive" else pickle.loads(evil.read_bytes())
    assert ran(mark)  # where nobody is on guard
    with pytest.raises(ValueError, match=r"evil\.ckpt' (cannot be read|is no checkpoint)"):
        export_checkpoint(evil, tmp_path / "out")
    module, data = loop.module(GRPOLightningModule), loop.Problems(2, 2)
    for command in ("fit", "validate", "test", "predict"):
        with pytest.raises(ValueError, match=r"evil\.ckpt' (cannot be read|is no checkpoint)"):
            getattr(loop.trainer(), command)(module, data, ckpt_path=str(evil))
    assert not ran(mark)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_from_a_url(
    loop: Loop, checkpoint: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")  # fsspec's
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "www").mkdir()
    changed(checkpoint, tmp_path / "www" / "evil.ckpt", callbacks=Runs(mark))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "www"))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/evil.ckpt"
        with pytest.raises(ValueError, match="cannot be read"):
            loop.trainer().test(loop.module(GRPOLightningModule), loop.Problems(2, 2), ckpt_path=url)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (tmp_path / "torch" / "hub" / "checkpoints" / "evil.ckpt").is_file()  # it came to that
    assert not ran(mark)


class Planted:
    """What a checkpoint wants to be made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1


def test_a_checkpoint_that_brings_settings(
    checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LightningCLI takes `hyper_parameters` of a file for settings, which name classes to make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    planted = {"class_path": f"{__name__}.Planted"}
    evil = changed(
        checkpoint,
        tmp_path / "evil.ckpt",
        hyper_parameters={"max_completion_length": 3, "chat_template_kwargs": {"a": planted}},
    )
    model = {"model": str(tiny_checkpoint), "sampler": {"class_path": "masa_lightning.TransformersSampler"}}
    model |= {
        "prompts": {"solution": "S:{problem}"},
        "max_prompt_length": 64,
        "max_completion_length": 8,
        "evaluation": {"num_generations": 1},
    }
    rows = [{"problem": "1+1", "answer": "2"}]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {
        "trainer": quiet,
        "model": {"class_path": "masa_lightning.GRPOLightningModule", "init_args": model},
        "data": {"class_path": "masa_lightning.MathDataModule", "init_args": {"test": "test.jsonl"}},
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr("sys.argv", ["masa"])
    command = cli.main(
        ["test", "--config", "run.yaml", "--data.init_args.test_split", "test", "--ckpt_path", str(evil)]
    )
    assert command is not None
    assert command.model.max_completion_length == 8
    assert command.model.chat_template_kwargs == {}
    assert Planted.made == 0


def _plant(folder: Path, where: str, mark: Path) -> None:
    """Makes a stranger's of a genuine folder of shards."""
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    if where == "metadata":
        metadata.planner_data = Runs(mark)
    else:
        wanted = [i for i in metadata.storage_data
                  if isinstance(metadata.state_dict_metadata[i.fqn], BytesStorageMetadata)]  # fmt: skip
        torch.save(Runs(mark), folder / "evil.distcp")
        for index in wanted:
            info = metadata.storage_data[index]
            info.relative_path, info.offset = "evil.distcp", 0
            info.length = (folder / "evil.distcp").stat().st_size
        assert wanted
    file.write_bytes(pickle.dumps(metadata))


def _resume(rank: int, folder: Path, tiny: Path) -> None:
    warnings.filterwarnings("ignore")
    loop, fsdp2, marks = Loop(tiny), two_processes.strategy, folder / "marks"
    settings: dict[str, Any] = {"sampler": loop.Scripted(loop.boxes(2, 3, 4)), "max_completion_length": 120}

    def run(**more: Any) -> Any:
        module = loop.module(GRPOLightningModule, **settings)
        trainer = loop.trainer(
            devices=2, strategy=fsdp2("fsdp2"), limit_val_batches=0, max_epochs=more.pop("epochs", 1)
        )
        trainer.fit(module, loop.Problems(2, batch_size=1), **more)
        return trainer

    run().save_checkpoint(folder / "own")
    for where in ("metadata", "value"):
        if rank == 0:
            shutil.copytree(folder / "own", folder / where)
            _plant(folder / where, where, marks / where)
        torch.distributed.barrier()
        with pytest.raises(ValueError, match="Nothing in it was run"):
            run(ckpt_path=folder / where)
        torch.distributed.barrier()
    assert run(ckpt_path=folder / "own", epochs=2).global_step == 2
    (folder / f"done-{rank}").touch()


def test_a_folder_of_shards(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    two_processes.run(_resume, tmp_path, tiny_checkpoint)
    assert {path.name for path in tmp_path.glob("done-*")} == {"done-0", "done-1"}
    with pytest.raises(ValueError, match=r"its \.metadata is damaged .* Nothing in it was run"):
        export_checkpoint(tmp_path / "metadata", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_checkpoint(tmp_path / "value", tmp_path / "out")  # reads tensors alone
    export_checkpoint(tmp_path / "own", tmp_path / "out")
    assert not list((tmp_path / "marks").iterdir())


def test_a_chat_template_that_names_a_file(checkpoint: Path, secret: Path, tmp_path: Path) -> None:
    evil = changed(checkpoint, tmp_path / "evil.ckpt", chat_template=str(secret))
    with pytest.raises(
        ValueError, match=r"has '.*id_rsa' as its chat template; expected Jinja text.*--chat-template FILE"
    ):
        export_checkpoint(evil, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "right.jinja").write_text("{{ messages }}")
    export_checkpoint(evil, tmp_path / "out", chat_template=str(tmp_path / "right.jinja"))
    assert loading.load_tokenizer(str(tmp_path / "out")).chat_template == "{{ messages }}"
    export_checkpoint(checkpoint, tmp_path / "own")  # has the text, and no longer needs the file
    assert loading.load_tokenizer(str(tmp_path / "own")).chat_template.endswith("{# mine #}")


def test_a_checkpoint_whose_texts_are_code(checkpoint: Path, mark: Path, tmp_path: Path) -> None:
    """A card is Python to copy, markdown to read, and YAML for the hub."""
    harm = f"1); __import__('os').mkdir({str(mark)!r}); (1"
    saved = torch.load(checkpoint, weights_only=False)["masa"]
    module = saved["run"]["module"] | {"pass_rate_scale": 8, "seed": harm}
    module |= {"num_meta_generations": 2, "chat_template_kwargs": {"a'b": harm}}
    module["evaluation"] = module["evaluation"] | {"temperature": harm, "top_p": harm, "top_k": harm}
    name = "x\n---\nlicense: evil\n"
    validation = {"rollout_steps": "[a](b)", "problems": name, "metrics": {"val/pass@1": 0.5}}
    evil = changed(
        checkpoint,
        tmp_path / "evil.ckpt",
        run=saved["run"] | {"module": module, "validation": validation, "data": {"sources": {"train": [name]}}},
    )
    export_checkpoint(evil, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license is None
    assert card.data.datasets is None
    blocks = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)}
        assert not {name for name in calls if "import" in name or "mkdir" in name}
    exec(blocks[0], {})
    assert not ran(mark)
    assert "[a](b)" not in card.text.replace(code("[a](b)"), "")


@pytest.mark.parametrize("name", ["max_completion_length", "pass_rate_scale"])
def test_a_checkpoint_whose_lengths_are_none_is_not_exported(
    name: str, checkpoint: Path, mark: Path, tmp_path: Path
) -> None:
    run = torch.load(checkpoint, weights_only=False)["masa"]["run"]
    harm = {name: f"1); __import__('os').mkdir({str(mark)!r}); (1"}
    evil = changed(checkpoint, tmp_path / "evil.ckpt", run=run | {"module": run["module"] | harm})
    with pytest.raises(
        ValueError, match=r"where prompts and lengths of the training are to be; .* take the one before"
    ):
        export_checkpoint(evil, tmp_path / "out")
    assert not ran(mark)


# -- folders of models -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def _map_code(model: Path, mark: Path) -> None:
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nConfig = Model = Tokenizer = object\n")
    edit(model / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})


def test_a_model_with_code(model: Path, checkpoint: Path, mark: Path, tmp_path: Path) -> None:
    _map_code(model, mark)
    loading.load_model(str(model), "float32")  # transformers knows this architecture itself
    export_checkpoint(checkpoint, tmp_path / "out", model=str(model))
    assert not [file for file in (tmp_path / "out").iterdir() if b"auto_map" in file.read_bytes()]
    edit(model / "config.json", attn_implementation="someone/kernels")
    with pytest.raises(
        ValueError, match="asks for attention by 'someone/kernels', code of the hub, which is never run here"
    ):
        loading.load_model(str(model), "float32")
    edit(model / "config.json", attn_implementation=None, model_type="evil")
    for load in (loading.load_config, functools.partial(loading.load_model, dtype="float32")):
        with pytest.raises(ValueError, match="brings Python code of its own, which is not run unless you say so"):
            load(str(model))
    assert not ran(mark)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_model_whose_weights_are_a_pickle(model: Path, mark: Path, file: str) -> None:
    if file == "pytorch_model.bin":
        (model / "model.safetensors").unlink()
    else:
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
        (model / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model)}))
    torch.save({"weight": Runs(mark)}, model / file)
    torch.load(model / file, weights_only=False)
    assert ran(mark)
    with pytest.raises((ValueError, OSError)):
        loading.load_model(str(model), "float32")
    assert not ran(mark)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["whole", "lora"])
def test_a_model_folder_with_links(loop: Loop, model: Path, secret: Path, tmp_path: Path, lora: LoRA | None) -> None:
    module = loop.module(GRPOLightningModule, lora=lora, model=str(model))
    loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(tmp_path / "run.ckpt")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "chat_template.jinja").symlink_to(secret)
    assert loading.load_tokenizer(str(model)).chat_template == SECRET  # so it would stand in the exported folder
    with pytest.raises(ValueError, match=r"chat_template\.jinja is a link to '.*id_rsa', outside of the folder"):
        export_checkpoint(tmp_path / "run.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_of_the_hubs_cache_are_followed(model: Path, checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "0").mkdir(parents=True)
    for file in model.iterdir():
        file.rename(cache / "blobs" / file.name)
        (cache / "snapshots" / "0" / file.name).symlink_to(f"../../blobs/{file.name}")
    export_checkpoint(checkpoint, tmp_path / "out", model=str(cache / "snapshots" / "0"))
    loading.load_tokenizer(str(tmp_path / "out"))


TEMPLATES: dict[str, Callable[[Path, Path], str]] = {
    "classes": lambda mark, secret: "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": lambda mark, secret: (
        f"{{{{ raise_exception.__globals__['__builtins__']['__import__']('os').mkdir('{mark}') }}}}"
    ),
    "cycler": lambda mark, secret: f"{{{{ cycler.__init__.__globals__.os.mkdir('{mark}') }}}}",
    "include": lambda mark, secret: f"{{% include '{secret}' %}}",
    "import": lambda mark, secret: f"{{% import '{secret}' as it %}}{{{{ it }}}}",
    "change": lambda mark, secret: "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_of_a_model(model: Path, mark: Path, secret: Path, name: str) -> None:
    (model / "chat_template.jinja").write_text(TEMPLATES[name](mark, secret))
    tokenizer = loading.load_tokenizer(str(model))
    rendered = None
    with pytest.raises((jinja2.TemplateError, TypeError)):
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "1+1"}], tokenize=False)
    assert rendered is None
    assert not ran(mark)


# -- data --------------------------------------------------------------------------------------------------------------

ROWS = [
    "{{ ''.__class__ }}{% include '/etc/passwd' %}",
    "{pass_rate_scale} {notions} {0.__class__} %s $HOME `id`",
    "__import__('os').mkdir('ran')",
]


@pytest.mark.parametrize("text", ROWS)
def test_a_row_of_data(loop: Loop, text: str) -> None:
    """It stands in the prompt as it is: nothing fills or runs it."""
    tokenizer = loading.load_tokenizer(str(loop.checkpoint))
    chat = solution_messages(PromptTemplates(solution="S:{problem}"), text)
    assert tokenizer.apply_chat_template(chat, tokenize=False) == f"<user>S:{text}"


@pytest.mark.parametrize("kind", ["script", "pkl", "pickled column"])
def test_files_of_data(mark: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if kind == "script":
        (folder / "data.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    elif kind == "pkl":
        (folder / "train.pkl").write_bytes(pickle.dumps(Runs(mark)))
    else:
        pickled = [pickle.dumps(Runs(mark))]
        table = pyarrow.table({"problem": pickled, "answer": pickled})
        parquet.write_table(table, folder / "train.parquet")
    data = MathDataModule(train=str(folder), validation_size=0)
    with pytest.raises(ValueError, match="train"):
        data.setup("fit")
    assert not ran(mark)


@pytest.mark.parametrize("way", ["path", "absolute path", "link"])
def test_a_folder_of_data_that_points_outside(secret: Path, tmp_path: Path, way: str) -> None:
    rows = secret.with_name("rows.jsonl")
    rows.write_text(json.dumps({"problem": SECRET, "answer": "1"}))
    folder = tmp_path / "data"
    folder.mkdir()
    if way == "link":
        (folder / "train.jsonl").symlink_to(rows)
    else:
        path = rows if way == "absolute path" else "../home/rows.jsonl"
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n")
    data = MathDataModule(train=str(folder), validation_size=0)
    with pytest.raises(ValueError, match="outside of the folder; expected files inside it"):
        data.setup("fit")
    assert data.splits == {}


def test_rollouts_of_a_run(mark: Path, tmp_path: Path) -> None:
    problem = Problem(id="7", problem="1+1", answer="2", source="sums")
    completion = Completion(token_ids=[1, 2], logprobs=[], finish_reason="stop")
    prediction = MetaPrediction(pass_rate=3, notions=("sum",))
    group = RolloutGroup(problem=problem)
    group.solutions = [Rollout(kind="solution", prompt_ids=[], completion=completion, text="x", reward=1.0)]
    group.metas = [Rollout(kind="meta", prompt_ids=[], completion=completion, text="x", prediction=prediction)]
    path = tmp_path / "rollouts.jsonl"
    lines = [json.loads(to_line(group, rollout)) for rollout in group.rollouts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert RolloutFile(path).read(problem)[1].prediction == prediction
    hostile: list[dict[str, Any]] = [{"kind": "evil"}, {"correct": "yes"}, {"correct": 1}, {"reward": [1]}]
    hostile += [
        {"reward": "__import__('os')"},
        {"rewards": {"correct": "a"}},
        {"token_ids": ["a"]},
        {"token_ids": [-1]},
    ]
    hostile += [{"prediction": {"__class__": "evil"}}, {"prediction": {"notions": None, "py/object": "os.mkdir"}}]
    hostile += [{"source": ["sums"]}, {"rollouts": "2"}, {"ungraded": None}, {"text": {"a": 1}}]
    for change in hostile:
        path.write_text("".join(json.dumps(line | change) + "\n" for line in lines))
        with pytest.raises(ValueError, match=r"rollouts\.jsonl (has a record .* that )?is (not a|no) rollout"):
            RolloutFile(path).read(problem)
    path.write_bytes(pickle.dumps(Runs(mark)) + b"\n")
    with pytest.raises(ValueError, match=r"rollouts\.jsonl is not a rollout"):
        RolloutFile(path)
    assert not ran(mark)


# -- what models write -------------------------------------------------------------------------------------------------


def test_a_completion(mark: Path) -> None:
    """Mathematics is read, not evaluated; programs: tests/grading/programs/test_hostile_programs.py."""
    harm = f"__import__('os').mkdir('{mark}')"
    boxes = [harm, f"\\text{{{harm}}}", f"{{{{ {harm} }}}}", f"\\input{{{mark}}}", f'eval("{harm}")', f"1+{harm}"]
    problems = [Problem(id=str(i), problem="?", answer="x+1") for i in range(len(boxes))]
    grader = MathGrader(workers=1)
    try:
        verdicts = grader.grade(problems, [f"\\boxed{{{box}}}" for box in boxes])
    finally:
        grader.close()
    assert True not in verdicts
    assert not ran(mark)


@pytest.mark.parametrize("text", ["[{class_path: this.x}]", "quantities.yaml", "this.x"])
def test_a_text_in_place_of_a_list_of_objects_is_not_read(text: str) -> None:
    """jsonargparse would parse it, or read the file of that name, and import what is in it."""
    refused = strange_model("masa_lightning.MASALightningModule", {"model": "a", "quantities": text})
    assert refused == [f"quantities: {text}"]
    assert not strange_model("masa_lightning.MASALightningModule", {"model": "a", "quantities": None})
