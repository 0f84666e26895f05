"""Training adapters in the loop: what moves, the KL term's reference, checkpoints and resuming."""

import sys

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning import cli
from masa_lightning.callbacks.expert_sft import ExpertSFT
from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA
from masa_lightning.models.packing import pack
from masa_lightning.models.policy import Policy
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.settings import Algorithm

LORA = LoRA(rank=4)
TOKENS = pack([([5, 6, 7], [8, 9, 1]), ([10], [11, 12])])


@pytest.fixture
def module(loop):
    def make(lora=LORA, **settings):
        settings = {"algorithm": Algorithm(kl_coef=0.1), "learning_rate": 0.05} | settings
        return loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, lora=lora, **settings)

    return make


@pytest.fixture
def problems(loop):
    return loop.Problems([loop.problem(name) for name in "abcdefgh"])  # 4 steps


def adapters(module):
    return {f"policy.{name}" for name, p in module.policy.named_parameters() if "lora_" in name}


@pytest.fixture
def saved(loop, module, problems, tmp_path):
    """A module after 2 steps, and its checkpoint."""
    trained = module()
    recorder = loop.fit(trained, problems, max_steps=2, enable_checkpointing=True, default_root_dir=tmp_path)
    recorder.trainer.save_checkpoint(tmp_path / "x.ckpt")
    return trained, tmp_path / "x.ckpt"


def test_adapters_alone_move(loop, module, problems):
    trained = module()
    start = []
    recorder = loop.Recorder()
    recorder.on_train_start = lambda *_: start.append(loop.weights(trained))
    trainer = loop.trainer(recorder, limit_val_batches=0)
    trainer.fit(trained, problems)
    changed = loop.changed(start[0], loop.weights(trained))
    assert changed == {name for name in start[0] if "lora_" in name}
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for name, p in trained.named_parameters() if "lora_" in name}


def test_the_reference_is_the_model_without_adapters(loop, module, problems, monkeypatch):
    load, loaded = loading.load_model, []
    monkeypatch.setattr(loading, "load_model", lambda *args, **kwargs: (loaded.append(args), load(*args, **kwargs))[1])
    trained = module()
    recorder = loop.fit(trained, problems)
    assert len(loaded) == 1
    assert recorder.metrics[0]["kl"] == 0
    assert recorder.metrics[1]["kl"] > 1e-4
    base = Policy(load(str(loop.checkpoint), "float32"))
    (reference,) = trained._reference
    with torch.no_grad():
        assert torch.equal(reference(TOKENS, 1.0)[0], base(TOKENS)[0])
        assert not torch.allclose(trained.policy(TOKENS)[0], base(TOKENS)[0], atol=1e-3)


def test_without_a_kl_term_there_is_no_reference(module, loop, problems):
    trained = module(algorithm=Algorithm())
    loop.fit(trained, problems, max_steps=1)
    assert trained._reference == []


def test_a_checkpoint_holds_adapters_only(saved):
    trained, path = saved
    checkpoint = torch.load(path, weights_only=True)
    assert {*checkpoint["state_dict"]} == adapters(trained)
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(adapters(trained))
    assert checkpoint["masa"]["lora"] == {"rank": 4, "alpha": 32, "targets": "all-linear"}
    assert path.stat().st_size < 4 * sum(4 * p.numel() for p in trained.parameters() if p.requires_grad) + 50_000


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resuming_is_exact(loop, module, problems, tmp_path):
    def run(steps, resume=None, saver=None):
        trained, recorder = module(), loop.Recorder()
        callbacks = [saver] if saver else []
        trainer = loop.trainer(
            recorder, *callbacks, limit_val_batches=0, max_steps=steps, enable_checkpointing=bool(saver)
        )
        trainer.fit(trained, problems, ckpt_path=resume)
        return loop.weights(trained), [m["kl"] for m in recorder.metrics]

    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    whole, kl = run(4, saver=saver)
    torch.manual_seed(99)
    resumed, resumed_kl = run(4, tmp_path / "step=2.ckpt")
    assert not loop.changed(whole, resumed)
    assert resumed_kl[-2:] == kl[-2:]


@pytest.mark.parametrize("lora", [None, LoRA(rank=8), LoRA(rank=4, alpha=8), LoRA(rank=4, targets=("q_proj",))])
def test_a_checkpoint_of_other_adapters_is_refused(loop, module, problems, saved, lora):
    with pytest.raises(
        ValueError, match=r"written with lora: \{rank: 4, alpha: 32, targets: all-linear\}.*export CKPT"
    ):
        loop.trainer(limit_val_batches=0).fit(module(lora), problems, ckpt_path=saved[1])


def test_a_checkpoint_without_adapters_is_refused(loop, module, problems, tmp_path):
    recorder = loop.fit(module(None), problems, max_steps=1)
    recorder.trainer.save_checkpoint(tmp_path / "full.ckpt")
    with pytest.raises(ValueError, match=r"written with lora: null, and this module has lora: .rank: 4"):
        loop.trainer(limit_val_batches=0).fit(module(), problems, ckpt_path=tmp_path / "full.ckpt")


def test_missing_and_unknown_adapters_are_errors(saved):
    trained, path = saved
    state = torch.load(path, weights_only=True)["state_dict"]
    frozen = trained.policy.model.model.embed_tokens.weight.clone()
    trained.load_state_dict({name: torch.ones_like(value) for name, value in state.items()})
    assert all((p == 1).all() for p in trained.parameters() if p.requires_grad)
    assert trained.policy.model.model.embed_tokens.weight.equal(frozen)
    name, value = state.popitem()
    with pytest.raises(RuntimeError, match="Missing key.*" + name):
        trained.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        trained.load_state_dict(state | {name: value, "other": value})
    assert trained.load_state_dict(state, strict=False).missing_keys


def test_the_seed_decides_how_adapters_start(loop, module, problems):
    def start(seed):
        trained = module(seed=seed, learning_rate=1e-30)
        loop.fit(trained, problems, max_steps=1)
        return {name: p for name, p in loop.weights(trained).items() if "lora_A" in name}

    first = start(1)
    assert not loop.changed(first, start(1))
    assert loop.changed(first, start(2)) == {*first}


def test_cloning_moves_adapters_only(loop, problems):
    """`ExpertSFT` in the loop, with nothing else that moves them."""
    trained = loop.module(lora=LORA, learning_rate=1e-30)
    trained.expert_examples = lambda outputs: [([5, 6, 7], [8, 9, 1]), ([10], [11, 12, 1])]
    recorder = loop.fit(trained, problems, ExpertSFT(batch_size=2, learning_rate=0.05))
    base = loop.weights()
    for name, p in loop.weights(trained).items():
        if "lora_B" in name:
            assert p.abs().max() > 1e-3
        elif "lora_" not in name:
            assert torch.equal(p, base[name.replace("base_layer.", "")])
    losses = [m["sft/loss"] for _, m in recorder.logged if "sft/loss" in m]
    assert losses[-1] < losses[0]


def test_missing_peft_is_noticed_before_weights_are_loaded(loop, module, problems, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(ImportError, match=r"masa_lightning\[lora\]"):
        loop.fit(module(), problems)


def test_settings_from_yaml(loop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards: seed_everything sets it
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.setattr(sys, "argv", ["masa"])
    (tmp_path / "run.yaml").write_text(f"""
trainer: {{accelerator: cpu, max_steps: 1, logger: false, enable_checkpointing: false, enable_progress_bar: false,
  enable_model_summary: false, num_sanity_val_steps: 0, limit_val_batches: 0, limit_test_batches: 0}}
model:
  class_path: masa_lightning.GRPOLightningModule
  init_args:
    model: {loop.checkpoint}
    sampler: {{class_path: masa_lightning.TransformersSampler}}
    max_prompt_length: 64
    max_completion_length: 4
    num_generations: 2
    prompts: {{solution: "S:{{problem}}"}}
    lora: {{rank: 2, targets: [q_proj, v_proj]}}
data:
  class_path: masa_lightning.ArithmeticDataModule
  init_args: {{train_size: 2, validation_size: 0, batch_size: 2}}
""")
    module = cli.main(["fit", "--config", "run.yaml", "--model.init_args.lora.alpha", "4"]).model
    assert module.lora == LoRA(rank=2, alpha=4, targets=("q_proj", "v_proj"))
    assert len(adapters(module)) == 2 * 2 * 2
