"""Drawing completions from the policy.

`vllm` is the fast way, and the only package that imports vLLM; `transformers` is the plain way, and the oracle in tests.
"""
