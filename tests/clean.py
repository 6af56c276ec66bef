"""Runs in a process of its own, where headsearch can't be imported: loads models as anyone would.

    python clean.py INPUTS.npz FOLDER…

Writes FOLDER.npy with the logits that the model in FOLDER gives for the inputs.
"""

from __future__ import annotations

import sys

sys.modules["headsearch"] = None  # type: ignore[assignment]  # so that importing it fails

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

arrays = np.load(sys.argv[1])
for folder in sys.argv[2:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    AutoTokenizer.from_pretrained(folder)
    inputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    with torch.inference_mode():
        np.save(f"{folder}.npy", model.eval()(**inputs).logits.numpy())
