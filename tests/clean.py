"""Runs in a process of its own, where headsearch can't be imported: loads models as anyone would.

    python clean.py FOLDER…

Writes FOLDER.npy with the logits that the model in FOLDER gives for the inputs in FOLDER.npz.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.modules["headsearch"] = None  # type: ignore[assignment]  # so that importing it fails

import numpy as np  # noqa: E402  # after that
import torch  # noqa: E402  # after that
import transformers  # noqa: E402  # after that

for folder in sys.argv[1:]:
    (loader,) = json.loads((Path(folder) / "config.json").read_text())["auto_map"]
    model = getattr(transformers, loader).from_pretrained(folder, trust_remote_code=True)
    arrays = np.load(f"{folder}.npz")
    inputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    with torch.inference_mode():
        np.save(f"{folder}.npy", model.eval()(**inputs).logits.numpy())
