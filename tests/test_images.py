"""Searches of models that read images."""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import headsearch
from headsearch.errors import DataError, InputError, ModelError
from headsearch.heads import HeadMap
from headsearch.model.checkpoint import load_model
from headsearch.model.samples import sample_inputs
from headsearch.report.card import card
from headsearch.run.command import start
from headsearch.run.config import RunConfig
from headsearch.run.export import export
from headsearch.run.findings import gather
from headsearch.run.prepare import load_task
from headsearch.task.data import load_examples
from headsearch.task.images import images_of
from tests.calling import caller
from tests.test_kinds import RANDOM, Quiet, noisy, tiny
from tests.tiny_families import IMAGE

PROCESSOR = ViTImageProcessorPil(size={"height": 8, "width": 8})
MODEL = tiny("ViTForImageClassification", IMAGE)
DROP = 0.15
PICTURES = [RANDOM.integers(0, 256, (9 + i % 3, 12, 3)).astype(np.uint8) for i in range(50)]


@torch.inference_mode()
def answers(model: Any) -> np.ndarray:
    """One image at a time, by nothing but transformers."""
    return np.array(
        [
            int(model(**PROCESSOR(picture, return_tensors="pt")).logits[0].argmax())
            for picture in PICTURES
        ]
    )


LABELS = noisy(answers(MODEL), 3)
ROWS = [
    {"image": picture, "label": int(label)} for picture, label in zip(PICTURES, LABELS, strict=True)
]


def test_images_are_scored_as_a_plain_loop_scores_them() -> None:
    result = headsearch.search(MODEL, PROCESSOR, ROWS, max_drop=DROP, max_evaluations=30)
    before = int((answers(MODEL) == LABELS).sum())
    assert result.details["baseline"]["correct"] == before
    assert result.best.heads_removed >= 1
    pruned = headsearch.prune(MODEL, result.best.removed)
    after = int((answers(pruned) == LABELS).sum())
    assert after == result.best.correct >= before - DROP * 50
    assert HeadMap.from_mask(result.mask)[0] == HeadMap((4, 4, 4))


def on_disk(folder: Path, **options: Any) -> RunConfig:
    """What a run of the same model on the same images is asked, both of them files."""
    MODEL.save_pretrained(folder / "model")
    PROCESSOR.save_pretrained(folder / "model")
    paths = []
    for i, picture in enumerate(PICTURES):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(picture).save(paths[-1])
    pd.DataFrame({"picture": paths, "label": LABELS}).to_csv(folder / "data.csv", index=False)
    return RunConfig(
        model=str(folder / "model"),
        data=str(folder / "data.csv"),
        image_column="picture",
        engine="inline",
        **options,
    )


def test_images_may_be_files_and_models_folders(tmp_path: Path) -> None:
    config = on_disk(tmp_path)
    task = load_task(config)
    assert task.data.examples == 50
    again = load_task(config)
    assert again.fingerprint == task.fingerprint
    pixels = np.concatenate([batch.arrays["pixel_values"] for batch in task.data.batches])
    expected = [
        PROCESSOR(PICTURES[i], return_tensors="np")["pixel_values"][0] for i in task.data.order
    ]
    np.testing.assert_array_equal(pixels, np.stack(expected))
    assert task.data.labels.tolist() == LABELS[task.data.order].tolist()
    model, processor = load_model(str(tmp_path / "model"))
    assert type(processor) is ViTImageProcessorPil
    assert (answers(model) == answers(MODEL)).all()


def test_a_run_on_images_is_reported_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_disk(tmp_path, max_drop=DROP, max_evaluations=30)
    start(config, tmp_path / "run", Quiet())
    changed = gather(tmp_path / "run")["changes"]["changed"]
    assert changed
    for each in changed:
        place, width, height = re.fullmatch(
            r"search example (\d+): an image of (\d+) x (\d+)", each["text"]
        ).groups()
        assert PICTURES[int(place) - 1].shape == (int(height), int(width), 3)
        assert each["label"] == MODEL.config.id2label[LABELS[int(place) - 1]]
    for style in ("html", "md"):
        page = headsearch.write_report(tmp_path / "run", style=style).read_text()
        assert changed[0]["text"] in page
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURES[0]).save("picture.jpg")
    for kind in ("narrow", "zeroed", "onnx"):
        export(Path("run"), Path(kind), kind, None, card)
        text = (tmp_path / kind / "README.md").read_text()
        assert "Tokenizer" not in text
        for block in text.split("```python\n")[1:]:
            exec(block.split("```")[0], {})  # noqa: S102  # the card's own


GREY = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])


def test_images_are_made_grey_for_a_model_of_one_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("ViTForImageClassification", {**IMAGE, "num_channels": 1})
    grey = [Image.fromarray(picture).convert("L") for picture in PICTURES]
    with torch.inference_mode():
        given = [
            int(model(**GREY(picture, return_tensors="pt")).logits[0].argmax()) for picture in grey
        ]
    given[3] = (given[3] + 1) % 3
    for pictures in (PICTURES, grey):  # either way the model reads the same
        rows = [
            {"image": image, "label": label} for image, label in zip(pictures, given, strict=True)
        ]
        result = headsearch.search(model, GREY, rows, max_drop=DROP, max_evaluations=8)
        assert result.details["baseline"]["correct"] == 49
    model.save_pretrained(tmp_path / "model")
    GREY.save_pretrained(tmp_path / "model")
    paths = [str(tmp_path / f"{i}.png") for i in range(len(grey))]
    for path, picture in zip(paths, PICTURES, strict=True):
        Image.fromarray(picture).save(path)
    pd.DataFrame({"image": paths, "label": given}).to_csv(tmp_path / "data.csv", index=False)
    config = RunConfig(
        model=str(tmp_path / "model"),
        data=str(tmp_path / "data.csv"),
        max_drop=DROP,
        max_evaluations=8,
        engine="inline",
    )
    start(config, tmp_path / "run", Quiet())
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURES[0]).save("picture.jpg")
    export(Path("run"), Path("narrow"), "narrow", None, card)
    blocks = (tmp_path / "narrow" / "README.md").read_text().split("```python\n")[1:]
    assert blocks
    for block in blocks:
        exec(block.split("```")[0], {})  # noqa: S102  # the card's own


@pytest.mark.parametrize(
    ("channels", "processor", "error", "message"),
    [
        (2, PROCESSOR, ModelError, "1 channel or 3 but its `config.num_channels` is 2"),
        (1, PROCESSOR, InputError, "take images of 1 channels, .* but: mean must have 1 elements"),
        (3, GREY, InputError, "take images of 3 channels, .* but: mean must have 3 elements"),
    ],
)
def test_a_model_and_a_processor_of_other_channels_are_refused(
    channels: int, processor: Any, error: type[Exception], message: str
) -> None:
    model = tiny("ViTForImageClassification", {**IMAGE, "num_channels": channels})
    with pytest.raises(error, match=message):
        headsearch.search(model, processor, ROWS)


def test_a_processor_that_colours_what_a_model_reads_in_grey_is_refused() -> None:
    model = tiny("ViTForImageClassification", {**IMAGE, "num_channels": 1})
    colours = ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True)
    with pytest.raises(InputError, match=r"\(images, 1 channels, .* made \(16, 3, 8, 8\)"):
        headsearch.search(model, colours, ROWS)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_images_may_have_several_labels(metric: str) -> None:
    model = tiny("ViTForImageClassification", IMAGE, problem_type="multi_label_classification")
    with torch.inference_mode():
        given = [
            (model(**PROCESSOR(picture, return_tensors="pt")).logits[0] > 0).int().tolist()
            for picture in PICTURES
        ]
    given[3][0] = 1 - given[3][0]
    rows = [{"image": image, "label": label} for image, label in zip(PICTURES, given, strict=True)]
    result = headsearch.search(
        model, PROCESSOR, rows, metric=metric, max_drop=DROP, max_evaluations=8
    )
    assert result.details["scored"] == {"kind": "labels", "rows": 150}
    if metric == "accuracy":
        assert result.details["baseline"]["correct"] == 149


@pytest.mark.parametrize("value", ["no such file.png", 3, None, np.zeros((2, 2, 7))])
def test_what_is_no_image_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"column 'image' must hold images .* but row 1 is of type"):
        images_of([PICTURES[0], value], "image")


def as_bytes(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "bmp")
    return file.getvalue()


# Cut off, and with a header (width and height are at byte 18) of 3.6 billion pixels.
DAMAGED = [
    as_bytes(PICTURES[0])[:-50],
    as_bytes(PICTURES[0])[:18] + struct.pack("<ii", 60000, 60000) + as_bytes(PICTURES[0])[26:],
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=["cut off", "too large"])
def test_an_image_that_is_damaged_is_refused(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "damaged.bmp").write_bytes(damaged)
    with pytest.raises(DataError, match=r"column 'image' must hold images .* but row 1 is of type"):
        images_of([PICTURES[0], tmp_path / "damaged.bmp"], "image")
    # A data set decodes its images by itself, when they are read.
    files = [{"bytes": each, "path": None} for each in (as_bytes(PICTURES[0]), damaged)]
    columns = {"image": datasets.Image(), "label": datasets.Value("int64")}
    table = datasets.Dataset.from_dict(
        {"image": files, "label": [0, 1]}, features=datasets.Features(columns)
    )
    table.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"column 'image' must hold .* but row 1 can't be: "):
        load_examples(str(tmp_path / "saved"), image_column="image", id2label=None, classes=2)


def test_grey_and_transparent_images_are_made_coloured() -> None:
    grey, clear = Image.new("L", (4, 3), 7), Image.new("RGBA", (4, 3), (1, 2, 3, 4))
    found = images_of([grey, clear, np.full((3, 4), 7)], "image")
    assert [image.shape for image in found] == [(3, 4, 3)] * 3
    assert found[0].tolist() == found[2].tolist()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.random.default_rng(0).random((8, 8, 3), np.float32), "this one holds float32"),
        (np.full((8, 8, 3), 300), "this one holds 300 to 300"),
        (np.full((8, 8, 3), -1), "this one holds -1 to -1"),
    ],
)
def test_arrays_that_are_no_bytes_are_refused(picture: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"whole numbers from 0 to 255 but {message}"):
        images_of([picture], "image")
    (kept,) = images_of([np.full((2, 2, 3), 255)], "image")
    assert (kept == 255).all()


def test_images_need_not_be_square() -> None:
    model = tiny("ViTForImageClassification", {**IMAGE, "image_size": (8, 12)})
    processor = ViTImageProcessorPil(size={"height": 8, "width": 12})
    result = headsearch.search(model, processor, ROWS, max_drop=DROP, max_evaluations=10)
    assert result.details["gradient_passes"] >= 1
    assert sample_inputs(model, 2, 1)["pixel_values"].shape == (2, 3, 8, 12)


@pytest.mark.parametrize("options", [(), ("--tokens", 8, "--tokens", 16)])
def test_latency_of_images_is_measured_once_for_each_batch(
    options: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = caller(monkeypatch, capsys)
    MODEL.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    args = ("latency", tmp_path, "--batch", 1, "--batch", 2, "--repeats", 1, *options)
    rows = json.loads(call(*args, "--json").out)["results"]
    assert [(row["batch"], row["tokens"]) for row in rows] == [(1, None), (2, None)]
    table = call(*args).out.splitlines()
    assert [row.split()[:2] for row in table[1:3]] == [["1", "-"], ["2", "-"]]


def test_a_distilled_model_is_loaded_with_both_of_its_classifiers(tmp_path: Path) -> None:
    model = tiny("DeiTForImageClassificationWithTeacher", IMAGE)
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    loaded, _ = load_model(str(tmp_path))
    assert type(loaded) is type(model)
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in model.named_parameters()}
