"""`VLLMSampler` alone: draw from any causal language model of transformers, whose weights may change in between."""

import torch

from masa_lightning import SamplingSettings, VLLMSampler
from masa_lightning.models import tiny
from masa_lightning.models.loading import load_model, load_tokenizer
from masa_lightning.types import SamplingRequest

if __name__ == "__main__":
    model, tokenizer = load_model("tiny", "float32"), load_tokenizer("tiny")
    sampler = VLLMSampler()
    sampler.setup(model, str(tiny.PATH), max_model_length=128, stop_token_ids=[tokenizer.eos_token_id])
    chat = [{"role": "user", "content": "Compute 354 mod 7. Solve."}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    requests = [SamplingRequest(prompt_ids=prompt, max_tokens=64, seed=seed) for seed in range(4)]

    sampler.sync_weights()  # before the first draw, and after each change of the weights
    for completion in sampler.generate(requests, SamplingSettings(temperature=1.0)):
        print(tokenizer.decode(completion.token_ids), f"| log-probability {sum(completion.logprobs):.2f}")

    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.1)
    sampler.sync_weights()
    print(tokenizer.decode(sampler.generate(requests[:1], SamplingSettings(temperature=0.0))[0].token_ids))
