"""torchmetrics: how often problems are solved, and how well a model predicts that; `figures` has the pictures."""

from masa_lightning.metrics.calibration import (
    LengthCalibration,
    LengthPoints,
    PassRateCalibration,
    PassRatePoints,
    ValueCalibration,
    ValuePoints,
)
from masa_lightning.metrics.confidence import ConfidenceCalibration, ConfidencePoints
from masa_lightning.metrics.solving import MajorityVote, PassAtK, PredictedVote

__all__ = [
    "ConfidenceCalibration",
    "ConfidencePoints",
    "LengthCalibration",
    "LengthPoints",
    "MajorityVote",
    "PassAtK",
    "PassRateCalibration",
    "PassRatePoints",
    "PredictedVote",
    "ValueCalibration",
    "ValuePoints",
]
