"""Lightning's EMA of the weights: training draws from the policy; validation and checkpoints are the average's."""

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from masa_lightning.models.lora import LoRA
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.sampling.transformers import TransformersSampler

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides"),
    pytest.mark.filterwarnings("ignore:.*weights_only"),
]
DECAY = 0.5


def spread(problem, completions):
    return [float(i) for i in range(len(completions))]


class Watched(GRPOLightningModule):
    """Keeps the weights at the start and the end of training steps, and those of validations."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.before, self.after, self.validated = [], [], []

    def _weights(self):
        return [p.detach().clone() for p in self.policy.parameters()]

    def training_step(self, batch, batch_idx):
        self.before.append(self._weights())
        outputs = super().training_step(batch, batch_idx)
        self.after.append(self._weights())
        return outputs

    def validation_step(self, batch, batch_idx):
        self.validated.append(self._weights())
        return super().validation_step(batch, batch_idx)


@pytest.fixture(params=["vllm", "transformers"])
def sampler(request):
    if request.param == "transformers":
        return TransformersSampler()
    pytest.importorskip("vllm")
    from masa_lightning import VLLMSampler

    return VLLMSampler(kv_cache_gib=0.02, max_num_seqs=64)


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def train(loop, sampler, folder, lora=None, **settings):
    given = {"max_prompt_length": 64, "reward_functions": [spread], "lora": lora}
    module = loop.module(Watched, model="tiny", sampler=sampler, **given)
    data = loop.Problems(train=8, validation=2, batch_size=2)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    checkpoint = settings.pop("ckpt_path", None)
    trainer = loop.trainer(
        saver,
        EMAWeightAveraging(decay=DECAY),
        loop.Recorder(),
        enable_checkpointing=True,
        val_check_interval=1,
        **settings,
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    return module


def test_training_draws_from_the_policy_and_validation_from_the_average(loop, sampler, tmp_path):
    # Each stage and step would stop at a sampler whose weights are not the policy's (`max_logp_difference`).
    module = train(loop, sampler, tmp_path)
    average = module.after[0]  # the first update is a copy
    for step in range(4):
        if step:
            assert equal(module.before[step], module.after[step - 1])  # the policy is back after validation
            average = [DECAY * a + (1 - DECAY) * p for a, p in zip(average, module.after[step], strict=True)]
            assert not equal(module.validated[step], module.after[step])
        for got, expected in zip(module.validated[step], average, strict=True):
            torch.testing.assert_close(got, expected)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["state_dict"]
    assert equal(module.policy.parameters(), [saved[f"policy.{name}"] for name, _ in module.policy.named_parameters()])
    for got, expected in zip(module.policy.parameters(), average, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_resumed_run_has_the_same_policy_and_average(loop, tmp_path, lora):
    if lora is not None:
        pytest.importorskip("peft")
    whole = train(loop, TransformersSampler(), tmp_path, lora)
    resumed = train(loop, TransformersSampler(), tmp_path, lora, ckpt_path=tmp_path / "step=2.ckpt")
    assert not equal(resumed.after[0], whole.after[-1])
    assert equal(resumed.before[0], whole.before[2])
    assert equal(resumed.after[-1], whole.after[-1])
    assert equal(resumed.policy.parameters(), whole.policy.parameters())


@pytest.mark.filterwarnings("ignore")
def test_sharded_weights_are_not_averaged(loop):
    trainer = loop.trainer(
        EMAWeightAveraging(), strategy=ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    )
    with pytest.raises(
        ValueError, match="EMAWeightAveraging makes the model before ModelParallelStrategy can shard it"
    ):
        trainer.fit(loop.module(), loop.Problems())
