"""How to ask an exported model: its prompts and how to load it, as Python that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from masa_lightning.functional.markdown import code, python_block, python_literal
from masa_lightning.functional.prompts import PromptTemplates, meta_messages, solution_messages


@dataclass(frozen=True)
class Adapters:
    """The folder holds LoRA adapters of this rank, for the base model of this name."""

    base: str
    rank: int


def usage(
    name: str,
    settings: Mapping[str, Any],
    *,
    predicts: bool,
    adapters: Adapters | None,
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
) -> str:
    """Writes the section.

    Args:
        name: Of the folder.
        settings: Of the module.
        predicts: Whether the model was trained on meta rollouts.
        adapters: None for a whole model.
        stop: Texts that ended completions.
        stop_token_ids: Tokens that did; the folder of a whole model says so itself.
    """
    known = {field.name for field in fields(PromptTemplates)}
    prompts = PromptTemplates(**{k: v for k, v in settings["prompts"].items() if k in known})
    limit = settings["max_completion_length"]
    solution = solution_messages(prompts, "{problem}")
    lines = [f"SOLUTION = {python_literal(solution[-1]['content'])}"]
    names, explanation = "chat(SOLUTION, problem)", ""
    if predicts:
        scale = settings["pass_rate_scale"]
        meta = meta_messages(prompts, "{problem}", pass_rate_scale=scale, max_completion_length=limit)
        lines.append(f"META = {python_literal(meta[-1]['content'])}")
        names = "chat(SOLUTION, problem), chat(META, problem)"
        explanation = (
            " Its answer to `META` ends with a JSON object: `pass_rate` is how many of "
            f"{code(scale)} attempts it expects to be right, `solution_length` the expected tokens of a right solution, "
            "`math_notion` the notions."
        )
    system = [f"{{'role': 'system', 'content': {m['content']!r}}}, " for m in solution[:-1]]
    lines += [
        "",
        "def chat(template, problem):",
        f"    return [{''.join(system)}{{'role': 'user', 'content': template.replace('{{problem}}', problem)}}]",
        "",
        "problem = 'Compute 12+34.'",
        f"MODEL = {name!r}  # this folder, or its name on the hub",
    ]
    lora = ""
    if adapters:
        lora = ", lora_request=LoRARequest('masa', 1, MODEL)"
        lines.append(f"BASE = {adapters.base!r}  # the model that the adapters belong to")
    extra = settings.get("chat_template_kwargs") or {}
    e = settings["evaluation"]
    drawn = f"temperature={e['temperature']!r}, top_p={e['top_p']!r}, top_k={e['top_k']!r}"
    chosen = f"do_sample=True, {drawn}" if e["temperature"] else "do_sample=False"
    ends, ends_vllm = "", ""
    if stop:
        ends, ends_vllm = f", stop_strings={[*stop]!r}, tokenizer=tokenizer", f", stop={[*stop]!r}"
    if adapters and stop_token_ids:
        ends += f", eos_token_id={[*stop_token_ids]!r}"
        ends_vllm += f", stop_token_ids={[*stop_token_ids]!r}"
    transformers = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({'BASE' if adapters else 'MODEL'}, dtype='auto')",
        "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
        f"for messages in [{names}]:",
        "    inputs = tokenizer.apply_chat_template(",
        "        messages, add_generation_prompt=True, return_dict=True, return_tensors='pt'"
        + (f", **{extra!r}" if extra else ""),
        "    )",
        f"    output = model.generate(**inputs, {chosen}, max_new_tokens={limit!r}{ends})",
        "    print(tokenizer.decode(output[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True))",
    ]
    vllm = [
        "from vllm import LLM, SamplingParams",
        "",
        "llm = LLM(MODEL)",
        f"sampling = SamplingParams({drawn}, max_tokens={limit!r}{ends_vllm})",
        f"for output in llm.chat([{names}], sampling{f', chat_template_kwargs={extra!r}' if extra else ''}{lora}):",
        "    print(output.outputs[0].text)",
    ]
    if adapters:
        rank = max(8, 1 << (adapters.rank - 1).bit_length())  # vLLM knows powers of two
        transformers[0:0] = ["from peft import PeftModel"]
        transformers[4:4] = ["model = PeftModel.from_pretrained(model, MODEL)"]
        vllm[1:3] = [
            "from vllm.lora.request import LoRARequest",
            "",
            f"llm = LLM(BASE, tokenizer=MODEL, enable_lora=True, max_lora_rank={rank})",
        ]
    return "\n\n".join(
        [
            "## How to use it",
            f"It was trained with its chat template and with these prompts; with others it may do worse.{explanation}",
            python_block(lines),
            "With transformers:",
            python_block(transformers),
            "With vLLM:",
            python_block(vllm),
        ]
    )
