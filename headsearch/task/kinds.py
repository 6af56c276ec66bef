"""What can be asked of a model under a HeadSet."""

from __future__ import annotations

OUTPUTS = "outputs"  # logits, or values for regression
GRADIENTS = "gradients"  # of the outputs by the gates of the heads
