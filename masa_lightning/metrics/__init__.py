"""The torchmetrics twins of `functional.calibration`, and (in `figures`) the pictures drawn from them."""

from masa_lightning.metrics.calibration import LengthCalibration, LengthPoints, PassRateCalibration, PassRatePoints

__all__ = ["LengthCalibration", "LengthPoints", "PassRateCalibration", "PassRatePoints"]
