"""The model card of an exported model: what was removed, what holds, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headsearch.heads import HeadMap
from headsearch.report.picture import head_picture
from headsearch.report.summary import (
    asked_text,
    heads_text,
    plain_scores,
    population_claims,
    score_text,
    scored_text,
)

_LOADING = {
    "narrow": """\
The weights are as small as the heads that are left, so the stock class alone can't hold them.
Either

```python
from transformers import {loader}, {reader}

# trust_remote_code runs modeling_headsearch.py of this folder, which gives the modules their sizes.
model = {loader}.from_pretrained("{folder}", trust_remote_code=True)
{reads} = {reader}.from_pretrained("{folder}")
```

or, which runs no code of this folder,

```python
import headsearch

model = headsearch.load_pruned("{folder}")
```""",
    "zeroed": """\
The model is as large as before, and no faster: in the output projection of each attention layer
the weights of the removed heads are 0. Any tool loads it as it did the original.

```python
from transformers import {loader}, {reader}

model = {loader}.from_pretrained("{folder}")
{reads} = {reader}.from_pretrained("{folder}")
```""",
    "onnx": """\
`model.onnx` takes {inputs}, and returns logits.

```python
import onnxruntime
{imports}from transformers import {reader}

{reads} = {reader}.from_pretrained("{folder}")
session = onnxruntime.InferenceSession("{folder}/model.onnx")
inputs = {reads}([{example}], return_tensors="np")
names = [each.name for each in session.get_inputs()]
(logits,) = session.run(["logits"], {{name: inputs[name] for name in names}})
```""",
}

_TEXTS = {
    "reader": "AutoTokenizer",
    "reads": "tokenizer",
    "inputs": "batches of any size and texts of any length",
    "imports": "",
    "example": '"a text"',
}
_IMAGES = {
    "reader": "AutoImageProcessor",
    "reads": "processor",
    "inputs": "batches of any size, of images as the processor makes them",
    "imports": "from PIL import Image\n",
    "example": 'Image.open("picture.jpg").convert("{mode}")',
}


def card(exported: dict[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        exported: what `run.export.export` returns.
    """
    point, result, folder = exported["point"], exported["result"], exported["folder"]
    lines = [
        "---",
        "library_name: transformers",
        "tags: [headsearch, pruned]",
        "---",
        "",
        f"# Without {point['heads_removed']} of {result['heads']} attention heads",
        "",
        f"{exported['asked']['model']}, from which headsearch {result['headsearch']} removed "
        f"attention heads: {_size(exported)}.",
        "",
        "```",
        head_picture(*HeadMap.from_mask(exported["mask"])),
        "```",
        "",
        "`mask.json` lists the removed heads.",
        "",
        "## What holds",
        "",
        *(f"- {line}" for line in [*claim_lines(exported), *_population(exported)]),
        "",
        "## How to load it",
        "",
        _LOADING[exported["format"]].format(
            folder=folder, loader=exported["loader"], **_reading(exported["images"])
        ),
        "",
        "## How it was made",
        "",
        *(f"    {command}" for command in exported["commands"]),
        "",
        f"The {result['examples']} search examples are of {exported['asked']['data']}; the heads "
        "were chosen on them, so they are no test set any more.",
        "",
        f"Exported with {_versions(exported['versions'])}.",
        f"Searched with {_versions(result['environment'])}.",
    ]
    return "\n".join(lines) + "\n"


def _reading(mode: str | None) -> dict[str, str]:
    """Return how inputs are made, of images in a mode of Pillow's where there is one."""
    if mode is None:
        return _TEXTS
    return {**_IMAGES, "example": _IMAGES["example"].format(mode=mode)}


def claim_lines(exported: dict[str, Any]) -> list[str]:
    """Return what is claimed of an exported model on the search split, and by what right."""
    point, result = exported["point"], exported["result"]
    name = result["metric"]
    best = point["removed"] == result["best"]["removed"] and result["certificate"]["verified"]
    before, after = plain_scores(result) if best else (result["baseline"], point)
    lines = [
        f"{name} on {scored_text(result)}: {score_text(before, name)} before, "
        f"{score_text(after, name)} after; {asked_text(result)}."
    ]
    if after["metric"] < result["threshold"]:
        lines.append("This operating point is BELOW what was asked.")
    if best:
        lines.append(
            "Verified by the plain transformers forward in float32: exact for the search examples."
        )
    else:
        lines.append("Scored by the search, NOT verified by the plain transformers forward.")
    return [
        *lines,
        f"Compared when it was exported: on random inputs its logits are {_apart(exported)} those "
        "of the original with these heads turned off.",
    ]


def export_lines(exported: dict[str, Any]) -> list[str]:
    """Return what a person should read after an export."""
    return [
        f"Removed {exported['point']['heads_removed']} of {exported['result']['heads']} heads: "
        f"{_size(exported)}.",
        *claim_lines(exported),
        f"{exported['format']} model in {exported['folder']}",
    ]


def _apart(exported: dict[str, Any]) -> str:
    return f"within {exported['apart']:.1e} of" if exported["apart"] else "exactly"


def _size(exported: dict[str, Any]) -> str:
    """Say how large the model is, and how large it was."""
    return (
        f"{_of(exported['parameters'], 'parameters')}, "
        f"{_of(exported['multiply_adds'], 'multiply-adds')} for {exported['example']}"
    )


def _of(sizes: Sequence[int], what: str) -> str:
    now, before = sizes
    return f"{now:,} {what}" if now == before else f"{now:,} {what} of {before:,}"


def _population(exported: dict[str, Any]) -> list[str]:
    point, result = exported["point"], exported["result"]
    claim = result["certificate"].get("population") or {}
    certified = claim.get("certified")
    if certified is not None and certified["removed"] != point["removed"]:
        return [
            "Nothing is claimed about other data than the search split: what the run certified "
            f"there is another operating point, with {heads_text(certified)} removed."
        ]
    return population_claims({**result, "best": point})


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
