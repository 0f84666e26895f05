"""Train reasoning language models that know themselves: MASA as PyTorch Lightning modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from masa_lightning.callbacks.allocation import SampleAllocation as SampleAllocation
    from masa_lightning.callbacks.benchmark_report import BenchmarkReport as BenchmarkReport
    from masa_lightning.callbacks.calibration_plots import CalibrationPlots as CalibrationPlots
    from masa_lightning.callbacks.cutoff import EarlyCutoff as EarlyCutoff
    from masa_lightning.callbacks.expert_sft import ExpertSFT as ExpertSFT
    from masa_lightning.callbacks.gating import PredictiveGating as PredictiveGating
    from masa_lightning.callbacks.hinting import NotionHinting as NotionHinting
    from masa_lightning.callbacks.history import HistoryGating as HistoryGating
    from masa_lightning.callbacks.overview import RunOverview as RunOverview
    from masa_lightning.callbacks.prediction_writer import PredictionWriter as PredictionWriter
    from masa_lightning.callbacks.progress import RolloutProgressBar as RolloutProgressBar
    from masa_lightning.callbacks.reference_sync import ReferenceSync as ReferenceSync
    from masa_lightning.callbacks.rollout_table import RolloutTable as RolloutTable
    from masa_lightning.callbacks.run_summary import RunSummary as RunSummary
    from masa_lightning.callbacks.validate_first import ValidateFirst as ValidateFirst
    from masa_lightning.data.arithmetic import ArithmeticDataModule as ArithmeticDataModule
    from masa_lightning.data.benchmarks import BenchmarkDataModule as BenchmarkDataModule
    from masa_lightning.data.math import MathDataModule as MathDataModule
    from masa_lightning.data.reasoning_gym import ReasoningGymDataModule as ReasoningGymDataModule
    from masa_lightning.data.texts import TextDataModule as TextDataModule
    from masa_lightning.functional.prompts import PromptTemplates as PromptTemplates
    from masa_lightning.grading.answer_grader import AnswerGrader as AnswerGrader
    from masa_lightning.grading.code_grader import CodeGrader as CodeGrader
    from masa_lightning.grading.math_grader import MathGrader as MathGrader
    from masa_lightning.models.lora import LoRA as LoRA
    from masa_lightning.modules.grpo import GRPOLightningModule as GRPOLightningModule
    from masa_lightning.modules.masa import MASALightningModule as MASALightningModule
    from masa_lightning.modules.meta import MetaSettings as MetaSettings
    from masa_lightning.modules.optimization import AdamW as AdamW
    from masa_lightning.modules.optimization import ConstantWithWarmup as ConstantWithWarmup
    from masa_lightning.modules.optimization import CosineWithWarmup as CosineWithWarmup
    from masa_lightning.modules.optimization import Optimization as Optimization
    from masa_lightning.quantities.confidence import StatedConfidence as StatedConfidence
    from masa_lightning.quantities.notions import Notions as Notions
    from masa_lightning.quantities.pass_rate import PassRate as PassRate
    from masa_lightning.quantities.quantity import Quantity as Quantity
    from masa_lightning.quantities.solution_length import SolutionLength as SolutionLength
    from masa_lightning.rewards.remote import RemoteReward as RemoteReward
    from masa_lightning.rewards.reward_model import RewardModel as RewardModel
    from masa_lightning.sampling.transformers import TransformersSampler as TransformersSampler
    from masa_lightning.sampling.vllm import VLLMSampler as VLLMSampler
    from masa_lightning.settings import Algorithm as Algorithm
    from masa_lightning.settings import Evaluation as Evaluation
    from masa_lightning.settings import SamplingSettings as SamplingSettings

# Lazy: importing the package loads neither torch nor transformers nor vLLM.
_HOMES = {
    "AdamW": "modules.optimization",
    "Algorithm": "settings",
    "AnswerGrader": "grading.answer_grader",
    "ArithmeticDataModule": "data.arithmetic",
    "BenchmarkDataModule": "data.benchmarks",
    "BenchmarkReport": "callbacks.benchmark_report",
    "CalibrationPlots": "callbacks.calibration_plots",
    "CodeGrader": "grading.code_grader",
    "ConstantWithWarmup": "modules.optimization",
    "CosineWithWarmup": "modules.optimization",
    "EarlyCutoff": "callbacks.cutoff",
    "Evaluation": "settings",
    "ExpertSFT": "callbacks.expert_sft",
    "GRPOLightningModule": "modules.grpo",
    "HistoryGating": "callbacks.history",
    "LoRA": "models.lora",
    "MASALightningModule": "modules.masa",
    "MetaSettings": "modules.meta",
    "MathDataModule": "data.math",
    "MathGrader": "grading.math_grader",
    "NotionHinting": "callbacks.hinting",
    "Notions": "quantities.notions",
    "Optimization": "modules.optimization",
    "PassRate": "quantities.pass_rate",
    "PredictionWriter": "callbacks.prediction_writer",
    "PredictiveGating": "callbacks.gating",
    "PromptTemplates": "functional.prompts",
    "Quantity": "quantities.quantity",
    "ReasoningGymDataModule": "data.reasoning_gym",
    "ReferenceSync": "callbacks.reference_sync",
    "RemoteReward": "rewards.remote",
    "RewardModel": "rewards.reward_model",
    "RolloutProgressBar": "callbacks.progress",
    "RolloutTable": "callbacks.rollout_table",
    "RunSummary": "callbacks.run_summary",
    "RunOverview": "callbacks.overview",
    "SampleAllocation": "callbacks.allocation",
    "SamplingSettings": "settings",
    "SolutionLength": "quantities.solution_length",
    "StatedConfidence": "quantities.confidence",
    "TextDataModule": "data.texts",
    "TransformersSampler": "sampling.transformers",
    "ValidateFirst": "callbacks.validate_first",
    "VLLMSampler": "sampling.vllm",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
