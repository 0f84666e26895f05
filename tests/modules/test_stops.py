"""A base model whose end of sequence is not its template's end of turn, from training to export, with both samplers."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from masa_lightning import ArithmeticDataModule, TransformersSampler
from masa_lightning.export import export_checkpoint
from masa_lightning.models import loading, tiny
from masa_lightning.models.stops import find_stops
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.settings import Evaluation, SamplingSettings

END_OF_TEXT, END_OF_TURN = 0, 2
KINDS = ["transformers", "vllm"]
CUT = "solutions of the first 3 training steps"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The embedded model, which ends its turns with <|im_end|>, as a base model that knows only of <|endoftext|>."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(tiny.PATH, folder)
    for name, change in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("config.json", {"eos_token_id": END_OF_TEXT}),
        ("generation_config.json", {"eos_token_id": END_OF_TEXT}),
    ):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == END_OF_TEXT
    return folder


def make_sampler(kind):
    if kind == "transformers":
        return TransformersSampler()
    pytest.importorskip("vllm")
    from masa_lightning.sampling.vllm import VLLMSampler

    return VLLMSampler(kv_cache_gib=0.05, max_num_seqs=64)


def make_module(base, kind="transformers", cls=GRPOLightningModule, **settings):
    defaults = {
        "prompts": tiny.PROMPTS,
        "num_generations": 8,
        "max_prompt_length": 64,
        "max_completion_length": 160,
        "evaluation": Evaluation(num_generations=4),
        "seed": 0,
    }
    return cls(model=str(base), sampler=make_sampler(kind), **(defaults | settings))


def problems(**settings):
    """Those whose solutions nearly always end: of the others some are made to run on."""
    return ArithmeticDataModule(batch_size=4, kinds=["maximum", "power"], **settings)


def solutions(recorder):
    return [r for groups in recorder.groups for g in groups for r in g.solutions]


def ends_of_turns(rollouts):
    """Of nearly all rollouts; some find no end within their budget."""
    ended = [r for r in rollouts if r.completion.finish_reason == "stop"]
    assert len(ended) > 0.8 * len(rollouts)
    assert not any({*r.completion.token_ids[:-1]} & {END_OF_TEXT, END_OF_TURN} for r in rollouts)
    return {r.completion.token_ids[-1] for r in ended}


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_end_where_the_template_ends_a_turn(loop, base, kind, tmp_path):
    module = make_module(base, kind)
    recorder = loop.fit(module, problems(train_size=8), limit_val_batches=0)
    assert module.stops.token_ids == (END_OF_TEXT, END_OF_TURN)
    rollouts = solutions(recorder)
    assert ends_of_turns(rollouts) == {END_OF_TURN}
    assert sum(r.correct for r in rollouts) > 8
    assert recorder.metrics[0]["completions/clipped_ratio"] < 0.2
    assert recorder.metrics[0]["tokens/solution"] == sum(r.length for r in rollouts[:32])  # the stop token trains
    assert recorder.metrics[0]["grad_norm"] > 0

    recorder.trainer.save_checkpoint(tmp_path / "a.ckpt")
    export_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [END_OF_TEXT, END_OF_TURN]
    model, tokenizer = (c.from_pretrained(tmp_path / "out") for c in (AutoModelForCausalLM, AutoTokenizer))
    ids = torch.tensor([rollouts[0].prompt_ids])
    drawn = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=160)[0]
    assert drawn[-1] == END_OF_TURN
    assert tokenizer.decode(drawn[len(ids[0]) :]).count("<|im_") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_next_turn_ends_an_answer_that_nothing_else_does(loop, base, kind):
    """As in GLM-4: answers end with the marker of the user, whom the model would go on to play."""
    # The embedded model ends turns with <|im_end|>: in this template that is what a question begins with.
    template = (
        "{% for m in messages %}{{ '<|im_end|>' if m.role == 'user' else '' }}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_end|>\n<|im_start|>assistant\n{% endif %}"
    )
    module = make_module(base, kind, chat_template=template)
    recorder = loop.fit(module, problems(train_size=4), limit_val_batches=0)
    assert module.stops.token_ids == (END_OF_TEXT, END_OF_TURN)
    assert ends_of_turns(solutions(recorder)) == {END_OF_TURN}


@pytest.mark.parametrize("kind", KINDS)
def test_tests_and_predictions_end_there_too(loop, base, kind):
    module = make_module(base, kind, MASALightningModule)
    data = problems(val_batch_size=4, test_size=8)
    recorder = loop.Recorder()
    loop.trainer(recorder).test(module, data, verbose=False)
    rollouts = [r for g in recorder.tested for r in g.rollouts]
    assert len(rollouts) == 64
    assert ends_of_turns(rollouts) == {END_OF_TURN}
    assert sum(not r.prediction.failures for g in recorder.tested for r in g.metas) > 24


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_tokens_of_the_settings(loop, base, kind, tmp_path):
    """The stop is trained and not read: `\\boxed{` never closes."""
    tokenizer = loading.load_tokenizer(str(base))
    token = tokenizer("\n", add_special_tokens=False).input_ids[-1]
    sampling = SamplingSettings(stop=["boxed", "<|im_start|>"], stop_token_ids=[token])
    module = make_module(base, kind, sampling=sampling)
    recorder = loop.fit(module, problems(train_size=4), limit_val_batches=0)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert module.stops.token_ids == tuple(sorted({END_OF_TEXT, END_OF_TURN, start, token}))
    assert module.stops.texts == ("boxed",)
    rollouts = solutions(recorder)
    assert {r.completion.finish_reason for r in rollouts} == {"stop"}
    by_text = [r for r in rollouts if r.completion.token_ids[-1] not in module.stops.token_ids]
    assert len(by_text) > 24
    for rollout in by_text:
        whole = tokenizer.decode(rollout.completion.token_ids)
        assert "boxed" in whole
        assert "boxed" not in tokenizer.decode(rollout.completion.token_ids[:-1])
        assert rollout.text == whole[: whole.index("boxed")]
        assert len(rollout.completion.logprobs) == rollout.length
    recorder.trainer.save_checkpoint(tmp_path / "a.ckpt")
    export_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [*module.stops.token_ids]
    assert "stop=['boxed']" in (tmp_path / "out" / "README.md").read_text()


def test_a_stop_token_that_is_no_special_one_is_no_text(loop, base):
    token = loading.load_tokenizer(str(base))("=", add_special_tokens=False).input_ids[-1]
    module = make_module(base, sampling=SamplingSettings(stop_token_ids=[token]))
    recorder = loop.fit(module, ArithmeticDataModule(batch_size=4, train_size=4), limit_val_batches=0)
    ended = [r for r in solutions(recorder) if r.completion.token_ids[-1] == token]
    assert ended
    assert not any("=" in r.text for r in ended)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stop_token_ids": [577]},
            r"sampling\.stop_token_ids has 577, and model .* has 577 tokens; expected ids below",
        ),
        (
            {"stop": ["<|im_end|>\n<|im_start|>"]},
            r"sampling\.stop has .*special token '<\|im_end\|>' \(2\).*Put 2 into",
        ),
    ],
)
def test_stops_that_never_come_are_refused_before_anything_is_loaded(loop, base, monkeypatch, settings, message):
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("the weights were loaded"))
    with pytest.raises(ValueError, match=message):
        loop.fit(make_module(base, sampling=SamplingSettings(**settings)), ArithmeticDataModule(batch_size=4))


def test_a_system_message_that_the_template_does_not_show(loop, base, monkeypatch):
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("the weights were loaded"))
    prompts = type(tiny.PROMPTS)(system="Be brief.")
    template = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    for run in ("fit", "test", "predict"):
        module = make_module(base, cls=MASALightningModule, prompts=prompts, chat_template=template)
        with pytest.raises(
            ValueError, match=r"prompts\.system is set, but the chat template of model .* shows no system"
        ):
            getattr(loop.trainer(), run)(module, datamodule=ArithmeticDataModule(batch_size=4))


def test_experts_end_with_the_end_of_turn(loop, base):
    module = make_module(
        base, cls=MASALightningModule, num_meta_generations=4, meta=MetaSettings(min_expert_reward=0.0)
    )
    outputs = []

    class Keep(loop.Recorder):
        def on_train_batch_end(self, trainer, module, out, *_):
            outputs.extend(module.expert_examples(out))

    loop.trainer(Keep(), limit_val_batches=0).fit(module, ArithmeticDataModule(batch_size=8, train_size=8))
    assert outputs
    for _, target, _ in outputs:
        assert target[-1] == END_OF_TURN
        assert not {*target[:-1]} & {END_OF_TEXT, END_OF_TURN}


def test_a_text_that_ends_a_turn(base):
    tokenizer, model = loading.load_tokenizer(str(base)), loading.load_model(str(base), "float32")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    stops = find_stops(model, tokenizer, SamplingSettings(stop=["###"]))
    assert (stops.token_ids, stops.texts) == ((END_OF_TEXT,), ("###", "</s>"))
    assert tokenizer.decode(stops.closing) == "</s>"
    assert stops.described(tokenizer) == "'<|endoftext|>' (0), the text '###', the text '</s>'"


def test_settings_suffice_where_the_model_has_no_end(base):
    tokenizer, model = loading.load_tokenizer(str(base)), loading.load_model(str(base), "float32")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.eos_token = model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match=r"no end-of-sequence token.*or sampling\.stop_token_ids"):
        find_stops(model, tokenizer, SamplingSettings())
    stops = find_stops(model, tokenizer, SamplingSettings(stop_token_ids=[7]))
    assert (stops.token_ids, stops.closing) == ((7,), (7,))


def test_a_run_whose_rollouts_are_nearly_all_cut_says_so_once(loop, base):
    module = make_module(base, max_completion_length=4)
    with pytest.warns(UserWarning, match=CUT) as warned:
        loop.fit(module, ArithmeticDataModule(batch_size=4, train_size=16), limit_val_batches=0)
    (message,) = [str(w.message) for w in warned if CUT in str(w.message)]
    assert message.startswith("96 of the 96 solutions of the first 3 training steps (100%) were cut at")
    assert "max_completion_length = 4 tokens" in message
    assert "'<|endoftext|>' (0), '<|im_end|>' (2)" in message
    assert "sampling.stop_token_ids or sampling.stop" in message
