"""An LLM judge as a reward: any server with OpenAI's chat API, sixteen questions at a time, 0 where it fails."""

import os
import re

import httpx
from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, MASALightningModule, RemoteReward
from masa_lightning.types import Problem

CLIENT = httpx.AsyncClient(base_url=os.environ.get("JUDGE", "http://127.0.0.1:8000/v1"), timeout=None)
QUESTION = "Problem:\n{}\n\nSolution:\n{}\n\nHow clear is it? Answer with one digit from 0 (not at all) to 9 (very)."


async def clarity(problem: Problem, completion: str) -> float:
    message = {"role": "user", "content": QUESTION.format(problem.problem, completion)}
    asked = {"model": os.environ.get("JUDGE_MODEL", "judge"), "messages": [message], "max_tokens": 5}
    answer = await CLIENT.post("/chat/completions", json=asked)
    text = answer.raise_for_status().json()["choices"][0]["message"]["content"]
    digit = re.search(r"\b\d\b", text)
    if digit is None:
        raise ValueError(f"the judge said {text!r}; expected a digit")
    return int(digit[0]) / 9


if __name__ == "__main__":
    judge = RemoteReward(clarity, max_concurrent=16, timeout=20, max_retries=2, on_failure=0.0)
    rewards = {"reward_functions": [judge], "reward_weights": [0.1]}
    module = MASALightningModule("tiny", num_generations=4, num_meta_generations=4, **rewards)
    trainer = Trainer(max_steps=2, limit_val_batches=0, log_every_n_steps=1)
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=16))
    for name in ("rewards/clarity/mean", "rewards/clarity/failed_ratio"):
        print(f"{name} {trainer.callback_metrics[name].item():.3f}")
