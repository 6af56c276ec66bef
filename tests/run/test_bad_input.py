"""Every bad input: one clear line on stderr, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from tests.tiny import BERT_LIKE
from tests.tiny_families import case
from tests.words import tiny_tokenizer


def refused(done: Any, message: str, out: Path | None = None) -> None:
    assert done.code == 2, (done.out, done.err)
    assert message in done.err
    assert "Traceback" not in done.err
    lines = done.err.strip().splitlines()
    assert len([line for line in lines if line.startswith("headsearch: ")]) == 1
    assert lines[-1].startswith("headsearch: ")
    if out is not None:
        assert not out.exists(), "nothing may be left behind"
        assert list(out.parent.iterdir()) == []


@pytest.fixture
def refuse(assets: Any, tmp_path: Path, headsearch: Any) -> Callable[..., None]:
    """Run with the given options and expect a refusal that leaves nothing behind."""

    def call(message: str, *options: object, model: object = None, data: object = None) -> None:
        (tmp_path / "runs").mkdir(exist_ok=True)
        out = tmp_path / "runs" / "run"
        args = ("run", model or assets.model, "--data", data or assets.data, "--engine", "inline")
        refused(headsearch(*args, "--out", out, *options), message, out)

    return call


def csv(path: Path, **columns: list[Any]) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_missing_file(refuse: Any) -> None:
    refuse("data file not found: no.csv", data="no.csv")


def test_unreachable_hub_names(refuse: Any) -> None:
    refuse("neither an existing file or folder nor a data set", data="somebody/something")
    refuse("could not load the model 'somebody/something'", model="somebody/something")


def test_paths_that_can_not_be_looked_at(assets: Any, headsearch: Any) -> None:
    long = "x" * 300
    for options in (
        ("status", long),
        ("run", assets.model, "--data", assets.data, "--out", long),
        ("run", assets.model, "--data", f"{long}.csv"),
        ("run", f"./{long}", "--data", assets.data),
        ("verify", long, "--data", assets.data),
    ):
        refused(headsearch(*options), f"{long}")


def test_missing_column(refuse: Any) -> None:
    refuse("column 'review' not found; the columns are text, label", "--text-column", "review")
    refuse("column 'second' not found", "--pair-column", "second")


def test_unknown_label(refuse: Any, tmp_path: Path) -> None:
    data = csv(tmp_path / "d.csv", text=["a", "b"], label=["pos", "great"])
    refuse("neg (0), pos (1), but row 1 is 'great'", data=data)


def test_empty_data(refuse: Any, tmp_path: Path) -> None:
    refuse("at least one example", data=csv(tmp_path / "d.csv", text=[], label=[]))


def test_one_class_data(refuse: Any, tmp_path: Path) -> None:
    data = csv(tmp_path / "d.csv", text=["good1", "good2"], label=["pos", "pos"])
    refuse("must not all be the same", data=data)


def test_texts_with_nulls(refuse: Any, tmp_path: Path) -> None:
    data = csv(tmp_path / "d.csv", text=["good1", None, "bad1"], label=["pos", "neg", "neg"])
    refuse("column 'text' must hold texts but 1 of 3 are not: row 1 is null", data=data)


def test_data_that_the_tokenizer_does_not_know(refuse: Any, tmp_path: Path) -> None:
    data = csv(tmp_path / "d.csv", text=["x y z", "q r"], label=["pos", "neg"])
    refuse("of the tokens are unknown to the tokenizer", data=data)


def test_a_tokenizer_with_more_tokens_than_the_model(
    refuse: Any, tmp_path: Path, assets: Any
) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(assets.model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*(f"[{i}]" for i in range(20)), "[URL]"])
    tokenizer.save_pretrained(folder)
    words = tokenizer.get_vocab()
    data = csv(tmp_path / "d.csv", text=["good1", "bad1 [URL]"], label=["pos", "neg"])
    refuse(f"the model's vocabulary, but '[URL]' is {words['[URL]']}", model=folder, data=data)


def test_texts_without_any_token(refuse: Any, tmp_path: Path, assets: Any) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(assets.model, folder)
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["post_processor"] = None  # which adds the special tokens
    file.write_text(json.dumps(settings))
    data = tmp_path / "d.jsonl"
    rows = [{"text": "good1", "label": "pos"}, {"text": "", "label": "neg"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refuse("must have a token at least but 1 of 2 have none: example 1", model=folder, data=data)


def test_missing_model(refuse: Any) -> None:
    refuse("model folder not found: ./no", model="./no")


def test_a_model_without_a_classification_head(refuse: Any, tmp_path: Path, assets: Any) -> None:
    folder = tmp_path / "bare"
    BertModel(BertConfig(**BERT_LIKE)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    refuse("has no trained classification head: its weights lack classifier", model=folder)


def test_an_unknown_family(refuse: Any, tmp_path: Path) -> None:
    folder = tmp_path / "xlnet"
    config = XLNetConfig(n_layer=1, n_head=2, d_model=8, d_inner=8, vocab_size=60)
    XLNetForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    refuse(
        "the known ones are BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT, MPNet",
        model=folder,
    )


def test_pickled_weights_are_not_read(refuse: Any, tmp_path: Path, assets: Any) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(assets.model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refuse("could not load the model", model=folder)


def test_truncated_weights(refuse: Any, tmp_path: Path, assets: Any) -> None:
    folder = tmp_path / "short"
    shutil.copytree(assets.model, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    refuse("could not load the model", model=folder)


@pytest.mark.parametrize("value", ["-0.01", "1", "1.5", "nan"])
def test_max_drop_out_of_range(refuse: Any, value: str) -> None:
    refuse("`max_drop` must be in [0, 1) but got", "--max-drop", value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-evaluations", "0"), "`max_evaluations` must be at least 1 but got 0"),
        (("--max-examples", "0"), "`max_examples` must be at least 1 but got 0"),
        (("--max-length", "2"), "`max_length` must be at least 3 but got 2"),
        (("--max-length", "41"), "`max_length` must be at most 40, the model's positions"),
        (("--workers", "2"), "the inline engine has 1 worker but `workers` is 2"),
        (("--shards", "99"), "--shards must be between 1 and 3, the number of batches"),
        (("--ray-address", "auto"), "`ray_address` needs the engine ray"),
        (("--time-limit", "soon"), "a duration must be like 90, 30m, 1.5h or 1h30m"),
        (("--metric", "pearson"), "`metric` must be one of accuracy, f1, matthews"),
        (("--gpus-per-worker", "1"), "`gpus_per_worker` is 1 but there is no GPU"),
        (("--memo", "no/such/memo.sqlite"), "the folder of the memo must exist"),
    ],
)
def test_options_out_of_range(
    refuse: Any, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refuse(message, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--certify-fraction", "0"), "`certify_fraction` must be in (0, 1) but got 0.0"),
        (("--certify-fraction", "1"), "`certify_fraction` must be in (0, 1) but got 1.0"),
        (("--certify-fraction", "nan"), "`certify_fraction` must be in (0, 1) but got nan"),
        (("--confidence", "1"), "`confidence` must be in [0.5, 1) but got 1.0"),
        (("--confidence", "95"), "`confidence` must be in [0.5, 1) but got 95.0"),
        (("--confidence", "nan"), "`confidence` must be in [0.5, 1) but got nan"),
        (
            ("--certify-data", "a.csv", "--certify-fraction", "0.5"),
            "`certify_data` and `certify_fraction` exclude each other but got 'a.csv' and 0.5",
        ),
        (
            ("--certify-fraction", "0.5", "--metric", "f1"),
            "`metric` must be accuracy for a certificate (`certify_data`, `certify_fraction`) but "
            "got 'f1'",
        ),
        (("--certify-data", "a.csv", "--metric", "matthews"), "but got 'matthews'"),
        (("--certify-data", "no.csv"), "certify data: data file not found: no.csv"),
        (
            ("--certify-fraction", "0.999"),
            "must leave examples of at least two labels to search on but of 150 examples 0.999 "
            "leaves 0",
        ),
    ],
)
def test_a_certificate_that_can_not_be_given(
    refuse: Any, options: tuple[str, ...], message: str
) -> None:
    refuse(message, *options)


def test_a_part_of_data_that_have_none(
    refuse: Any, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    made = datasets.Dataset.from_pandas(pd.read_csv(assets.data))
    made.save_to_disk(str(whole))
    datasets.DatasetDict({"dev": made}).save_to_disk(str(parts))
    for data, option, lack in (
        (assets.data, "split", "is one file"),
        (assets.data, "subset", "is one file"),
        (whole, "split", "has no splits"),
        (parts, "subset", "has no subsets"),
    ):
        message = f"`{option}` must not be given as {data} {lack}"
        refuse(message, f"--{option}", "dev", data=data)
        given = ("--data", data, f"--{option}", "dev")
        refused(headsearch("plan", assets.model, *given), message)
        refused(headsearch("verify", assets.model, *given), message)
    held = ("--certify-data", assets.certify)
    message = f"`certify_split` must not be given as {assets.certify} is one file"
    refuse(message, *held, "--certify-split", "dev", "--split", "dev", data=parts)
    # One that only the other data have is of these.
    refuse("certify data: ", "--certify-data", "some/set", "--subset", "a", "--split", "b")


def test_certify_data_that_the_search_knows(refuse: Any, assets: Any, tmp_path: Path) -> None:
    refuse("but 150 of their 150 examples are in the search data", "--certify-data", assets.data)
    known, fresh = pd.read_csv(assets.data)["text"], pd.read_csv(assets.certify)["text"]
    texts = [*known[:3], *fresh[:7]]
    data = csv(tmp_path / "d.csv", text=texts, label=["pos", "neg"] * 5)
    refuse(
        "certify data must be new to the search but 3 of their 10 examples are in the search data",
        "--certify-data",
        data,
    )


def test_certify_data_that_can_not_be_used(refuse: Any, tmp_path: Path) -> None:
    data = csv(tmp_path / "a.csv", review=["good1", "bad1"], label=["pos", "neg"])
    refuse("certify data: column 'text' not found", "--certify-data", data)
    data = csv(tmp_path / "b.csv", text=["x y z", "q r"], label=["pos", "neg"])
    refuse("certify data: 100% of the tokens are unknown", "--certify-data", data)


def test_a_metric_that_does_not_exist_is_a_usage_error(assets: Any, headsearch: Any) -> None:
    done = headsearch("run", assets.model, "--data", assets.data, "--metric", "bleu")
    assert done.code == 2
    assert "accuracy" in done.err
    assert "Traceback" not in done.err


def test_a_run_folder_that_exists(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    done = headsearch("run", assets.model, "--data", assets.data, "--out", out)
    refused(done, "the run folder must not exist yet")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", ["resume", "status"])
def test_no_such_run(command: str, tmp_path: Path, headsearch: Any) -> None:
    refused(headsearch(command, tmp_path / "no"), "run folder not found")
    refused(headsearch(command, tmp_path), "has no config.json")
    (tmp_path / "config.json").write_text("{broken")
    refused(headsearch(command, tmp_path), "can't be read")
    (tmp_path / "config.json").write_text('{"format": 99}')
    refused(headsearch(command, tmp_path), "must have format 1 but has 99")


def test_verify_needs_a_run_or_data(assets: Any, headsearch: Any) -> None:
    refused(headsearch("verify", assets.model), "a model needs --data")


@pytest.fixture
def small_run(assets: Any, tmp_path: Path, headsearch: Any) -> Path:
    out = tmp_path / "small"
    args = ("--engine", "inline", "--max-evaluations", 3, "--out", out)
    assert headsearch("run", assets.model, "--data", assets.data, *args).code == 0
    return out


def test_resume_refuses_data_that_changed(
    small_run: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    config = json.loads((small_run / "config.json").read_text())
    config["asked"]["data"] = str(assets.held_out)
    (small_run / "config.json").write_text(json.dumps(config))
    refused(headsearch("resume", small_run), "differ from those that")


def test_a_split_of_a_file_that_an_older_run_passed_over_does_no_harm(
    small_run: Path, headsearch: Any
) -> None:
    config = json.loads((small_run / "config.json").read_text())
    config["asked"]["split"] = "dev"
    (small_run / "config.json").write_text(json.dumps(config))
    before = (small_run / "transcript.jsonl").read_bytes()
    for command in ("resume", "verify"):
        done = headsearch(command, small_run)
        assert done.code == 0, done.err
    assert (small_run / "transcript.jsonl").read_bytes() == before


def test_resume_refuses_a_corrupted_memo_and_leaves_it(small_run: Path, headsearch: Any) -> None:
    memo = small_run / "memo.sqlite"
    memo.write_bytes(b"this is no database" * 1000)
    before = memo.read_bytes()
    refused(headsearch("resume", small_run), "memo.sqlite")
    assert memo.read_bytes() == before


def test_a_mask_of_another_shape(small_run: Path, headsearch: Any) -> None:
    mask = {"format": 1, "layers": 2, "heads_per_layer": [4, 4], "removed": {}}
    (small_run / "mask.json").write_text(json.dumps(mask))
    refused(headsearch("verify", small_run), "the mask is for heads [4, 4] but the model has")


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_files(
    assets: Any, tmp_path: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "run"
    done = headsearch("run", assets.model, "--data", assets.data, "--out", out)
    refused(done, "No space left on device", out)


def test_a_full_disk_while_searching_keeps_what_was_there(
    small_run: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = (small_run / "result.json").read_bytes()
    real = os.fsync
    calls = iter(range(100))

    def fills_up(descriptor: int) -> None:
        if next(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    done = headsearch("resume", small_run, "--max-evaluations", 9)
    refused(done, "No space left on device")
    assert (small_run / "result.json").read_bytes() == result
    assert not [path for path in small_run.iterdir() if path.name.startswith(".")]


def test_a_folder_that_can_not_be_made(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "run"
    done = headsearch("run", assets.model, "--data", assets.data, "--out", out)
    refused(done, "could not write")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("family", ["BART", "T5"])
def test_an_end_token_in_a_text_of_a_model_that_classifies_by_ends(
    family: str, refuse: Any, headsearch: Any, tmp_path: Path
) -> None:
    tokenizer, folder = tiny_tokenizer(), tmp_path / "model"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model: Any = case(family)[0]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    labels = [0, 1, 2, 0, 1]
    texts = ["good1", "bad1 bad2 bad3", "word1", "word2 [SEP] good2 [SEP]", "[SEP]"]
    refuse(
        f"texts must all have as many end tokens, '[SEP]', as {type(model).__name__} classifies by "
        "the last one, but row 3 has 3 and most have 1: 'word2 [SEP] good2 [SEP]'",
        model=folder,
        data=csv(tmp_path / "ends.csv", text=texts, label=labels),
    )
    pairs = csv(tmp_path / "pairs.csv", text=texts[:3] * 2, pair=texts[:3] * 2, label=[0, 1, 2] * 2)
    options = ("--pair-column", "pair", "--max-evaluations", 2, "--engine", "inline", "--quiet")
    done = headsearch("run", folder, "--data", pairs, *options, "--out", tmp_path / "pairs")
    assert done.code in (0, 3), done.err
