"""What can be told of a search while it runs, and ready listeners; see `base.Callback`."""

from __future__ import annotations

from headsearch.callbacks.base import Callback
from headsearch.callbacks.mlflow import MLflow
from headsearch.callbacks.tensorboard import TensorBoard
from headsearch.callbacks.wandb import WandB

__all__ = ["Callback", "MLflow", "TensorBoard", "WandB"]
