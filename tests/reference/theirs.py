"""Prunes heads as transformers 4 did; run by an interpreter that has it, and nothing of ours.

    python theirs.py FOLDER

FOLDER holds models, each a folder with `inputs.safetensors` and `cases.json`: the transformers
class, and lists of removed heads {layer: [heads]}. Writes `theirs.safetensors` beside them: logits
under `head_mask` and after `prune_heads`, and those of a model that was pruned in two steps with
saving and loading between them; and `heads.json`, how many heads each layer had left.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def logits(model, inputs, **more):
    with torch.inference_mode():
        return model(**inputs, **more).logits.contiguous()


def heads_of(model):
    """How many heads each layer has, by the attribute that the model's own class keeps."""
    found = []
    for module in model.modules():
        for name in ("num_attention_heads", "n_heads", "num_heads"):
            if isinstance(getattr(module, name, None), int) and hasattr(module, "pruned_heads"):
                found.append(getattr(module, name))
        inner = getattr(module, "self", None) or getattr(module, "attention", None)
        if hasattr(module, "pruned_heads") and hasattr(inner, "num_attention_heads"):
            found.append(inner.num_attention_heads)
    return found


def main() -> None:
    assert transformers.__version__.startswith("4."), transformers.__version__
    for place in sorted(Path(sys.argv[1]).iterdir()):
        cases = json.loads((place / "cases.json").read_text())
        inputs = load_file(place / "inputs.safetensors")
        kind = getattr(transformers, cases["class"])

        def load(folder, kind=kind):
            return kind.from_pretrained(folder, attn_implementation="eager").eval()

        results, heads = {}, {}
        for name, removed in cases["removed"].items():
            removed = {int(layer): list(gone) for layer, gone in removed.items()}
            model = load(place)
            mask = torch.ones(cases["layers"], cases["heads"])
            for layer, gone in removed.items():
                mask[layer, gone] = 0.0
            results[f"{name} mask"] = logits(model, inputs, head_mask=mask)
            model.prune_heads(removed)
            results[f"{name} pruned"] = logits(model, inputs)
            heads[name] = heads_of(model)
        first, second = ({int(k): v for k, v in step.items()} for step in cases["steps"])
        model = load(place)
        model.prune_heads(first)
        model.save_pretrained(place / "once")
        model = load(place / "once")
        model.prune_heads(second)
        results["two steps"] = logits(model, inputs)
        save_file(results, place / "theirs.safetensors")
        (place / "heads.json").write_text(json.dumps(heads))


if __name__ == "__main__":
    main()
