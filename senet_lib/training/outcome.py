"""What training and evaluation return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senet_lib.files import write_json
from senet_lib.results import SPLITS, write_predictions


@dataclass(frozen=True)
class Evaluation:
    """Predictions on N images: label, predicted, confidence (softmax of the predicted class), each of shape (N,)."""

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    loss: float  # mean cross-entropy, without label smoothing

    @property
    def accuracy(self) -> float:
        return float((self.label == self.predicted).mean())


@dataclass(frozen=True)
class Outcome:
    """The result of a finished training: one history row per epoch, and the last epoch's evaluation."""

    history: list[dict[str, float]]
    evaluation: Evaluation
    evaluated_on: str  # 'test', or 'holdout' if the recipe has a validation split
    environment: dict[str, Any]
    tta_accuracy: float | None = None  # with test-time augmentation; never replaces evaluation.accuracy

    @property
    def evaluated(self) -> str:
        """The display name of the evaluated split: 'test' or 'validation'."""
        return SPLITS[self.evaluated_on]

    @property
    def train_seconds(self) -> float:
        return sum(row["train_seconds"] for row in self.history)

    def save(self, run_dir: Path, **facts: Any) -> None:
        """Write predictions.npz, environment.json and outcome.json (the summary's content, plus `facts` such as params
        and macs) into the run directory. The run is done only once summary.json exists too."""
        run_dir = Path(run_dir)
        write_predictions(run_dir, self.evaluation.label, self.evaluation.predicted, self.evaluation.confidence)
        write_json(run_dir / "environment.json", self.environment)
        numbers = {
            "test_accuracy": self.evaluation.accuracy,
            "test_loss": self.evaluation.loss,
            "evaluated_on": self.evaluated_on,
            "epochs": len(self.history),
            "train_seconds": self.train_seconds,
        }
        if self.tta_accuracy is not None:
            numbers["tta_accuracy"] = self.tta_accuracy
        write_json(run_dir / "outcome.json", {**numbers, **facts})
