"""Drawing completions from the policy: `vllm` (the only file that imports vLLM) and `transformers` (no extra, and the oracle in tests)."""
