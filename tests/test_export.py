from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from masa_lightning import ArithmeticDataModule, GRPOLightningModule, TransformersSampler
from masa_lightning.export import export_checkpoint
from masa_lightning.models.tiny import PROMPTS


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_the_exported_folder_is_the_trained_policy(tmp_path: Path) -> None:
    module = GRPOLightningModule(
        "tiny",
        TransformersSampler(),
        prompts=PROMPTS,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
        num_generations=2,
        max_prompt_length=64,
        max_completion_length=16,
        learning_rate=1e-3,
    )
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, ArithmeticDataModule(train_size=4, validation_size=0, batch_size=4))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    export_checkpoint(tmp_path / "run.ckpt", tmp_path / "out")

    assert module.policy is not None
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(exported(ids).logits, module.policy.model.eval()(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == module.tokenizer.chat_template


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file"):
        export_checkpoint(tmp_path / "none.ckpt", tmp_path / "out")
    torch.save({"state_dict": {"layer": torch.ones(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds no policy"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "out")
