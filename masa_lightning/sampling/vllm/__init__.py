"""Samples from the policy with vLLM inside the training process. The only package that imports vLLM, and only in `setup`.

Weights travel in one of two ways:

* *shared storage* (the default on CPU with one process per engine): after `setup` the policy's parameters are row
  slices of vLLM's own fused weights. An optimiser step in place needs no copy, only a reset of the prefix cache;
* *streamed*: every `sync_weights` copies the policy's parameters, one at a time, to where the engine keeps them, or passes
  them through its `load_weights` where that place is not to be found.

On CPU the engine's linear layers then pack copies of their weights anew, which vLLM does once, for weights that never
change: 0.3 s for 135M parameters, for which generation takes a third less time (docs/results/performance.md).

Experts and latent attention compute with other layouts of their weights, too. On CPU these are made anew after each
hand-over (`cpu`); on CUDA, where vLLM laid anything out in a way of its own (`layouts`), each hand-over goes through vLLM's
own reload. That path was never run on a GPU; a test runs it on CPU.

An engine goes when its sampler goes, and leaves torch.distributed as it is; the next engine then starts faster.
"""

from masa_lightning.sampling.vllm.sampler import VLLMSampler as VLLMSampler
