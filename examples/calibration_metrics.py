"""The torchmetrics alone, for any model that predicts its own pass rate, in a loop of your own."""

import torch

from masa_lightning.metrics import PassRateCalibration

if __name__ == "__main__":
    metric = PassRateCalibration()
    for _ in range(4):  # batches of 64 problems, solved 8 times each, by a model that is a little over-confident
        chance = torch.rand(64)
        count = torch.full((64,), 8)
        correct = torch.binomial(count.float(), chance).long()
        metric.update(predicted=(chance + 0.1).clamp(max=1), correct=correct, count=count)
    values = metric.compute()
    for name in ("mae", "bias", "pearson", "ece"):
        print(f"{name} {values[name].item():.3f}")
    figure, _ = metric.plot()
    figure.savefig("calibration.png")
