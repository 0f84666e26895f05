"""Drawing completions from the policy.

`vllm` is the fast way, and the only file that imports vLLM; `transformers` is the plain way, and the oracle in tests.
"""
