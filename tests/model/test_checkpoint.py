"""Loading and saving: what is wrong is said, and nothing is ever half there."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GenerationConfig, LlamaConfig

import headsearch
from headsearch.errors import ModelError, StorageError
from headsearch.heads import HeadSet
from headsearch.model import checkpoint
from headsearch.model.bundle import bundle, rebuild
from headsearch.model.checkpoint import load_config, load_model, load_pruned, save_pruned
from headsearch.model.families import head_map
from headsearch.model.narrow import narrowed
from headsearch.model.plain import plain_outputs
from headsearch.model.samples import random_inputs
from tests.tiny import SPECS, tiny_data, tiny_model
from tests.tiny_families import GROUPED, case
from tests.words import save_folder, tiny_tokenizer


@pytest.fixture
def small(tmp_path: Path) -> Path:
    model = narrowed(tiny_model("BERT"), HeadSet.of([0, 5, 6]))
    save_pruned(model, tmp_path / "small", tiny_tokenizer())
    return tmp_path / "small"


def change_config(folder: Path, change: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_no_folder_and_no_safetensors_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model folder not found: "):
        load_pruned(tmp_path / "no")
    (small / "model.safetensors").rename(small / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could not load the narrow model"):
        load_pruned(small)


def test_load_model_reads_stock_and_narrow_folders(tmp_path: Path, small: Path) -> None:
    stock, tokenizer = load_model(str(save_folder(tmp_path / "stock", tiny_model("BERT"))))
    assert head_map(stock).heads_per_layer == (4, 4, 4)
    assert tokenizer("good1")["input_ids"][0] == 2
    narrow, _ = load_model(str(small))
    assert head_map(narrow).heads_per_layer == (3, 2, 4)


def test_weights_are_float32_whatever_was_saved(tmp_path: Path) -> None:
    save_folder(tmp_path / "half", tiny_model("BERT").half())
    pruned = headsearch.prune(tiny_model("BERT"), [(0, 1)]).half()
    headsearch.save_pruned(pruned, tmp_path / "narrow", tiny_tokenizer())
    assert {p.dtype for p in load_pruned(tmp_path / "narrow").parameters()} == {torch.float16}
    for name in ("half", "narrow"):
        model, _ = load_model(str(tmp_path / name))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.config.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("removed", [[], [(0, 1)]])
def test_load_pruned_keeps_the_dtype_that_was_saved(
    tmp_path: Path, removed: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    whole = tiny_model("BERT")
    model = headsearch.prune(whole, removed) if removed else whole
    save_pruned(model.to(dtype), tmp_path / "saved")
    loaded: Any = load_pruned(tmp_path / "saved")
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert loaded.config.dtype == dtype
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "saved", trust_remote_code=True
    )
    assert {p.dtype for p in theirs.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["headsearch"]["removed"].update({"0": [9]}), "head of layer 0 must be in"),
        (lambda c: c["headsearch"]["removed"].update({"0": [1, 2]}), "could not load"),
        (lambda c: c["headsearch"].update({"heads_per_layer": [4, 4]}), "`layers` must be 2"),
        (lambda c: c["headsearch"].update({"format": 7}), "`format` must be 1 but got 7"),
        (lambda c: c.update({"num_attention_heads": 2}), "the config's record is of heads"),
        (lambda c: c.update({"headsearch": 3}), "must be an object: 3"),
        (lambda c: c["headsearch"]["narrow"].update(format=2), "is not that of the heads"),
        (lambda c: c["headsearch"]["narrow"]["modules"].clear(), "is not that of the heads"),
    ],
)
def test_a_tampered_config_is_refused(small: Path, change: Any, message: str) -> None:
    change_config(small, change)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the class is checked below
        load_pruned(small)
    assert type(caught.value).__module__ == "headsearch.errors"
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"num_attention_heads": "12"}, {"vocab_size": [3]}])
def test_a_config_of_wrong_types_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save_folder(tmp_path / "model", tiny_model("BERT"))
    change_config(tmp_path / "model", lambda config: config.update(change))
    for load in (load_model, load_config):
        with pytest.raises(ModelError, match=r"^could not load the model '.*/model': [^\n]+$"):
            load(str(tmp_path / "model"))


def test_a_narrow_model_may_be_in_several_files(small: Path, tmp_path: Path) -> None:
    again = AutoModelForSequenceClassification.from_pretrained(small, trust_remote_code=True)
    again.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    expected = load_pruned(small).state_dict()
    for name, tensor in load_pruned(tmp_path / "parts").state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    index = tmp_path / "parts" / "model.safetensors.index.json"
    for broken, message in (
        ('{"weight_map": 3}', "must list the file of each weight"),
        ("[", "could not load the narrow model"),
        ('{"weight_map": {"a": "../../gone.safetensors"}}', "gone.safetensors"),
    ):
        index.write_text(broken)
        with pytest.raises(ModelError, match=message):
            load_pruned(tmp_path / "parts")


def test_a_narrow_model_of_a_hub_is_fetched_whole(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(stock: Any) -> Any:
        return lambda name, **options: stock.from_pretrained(small, **options)

    for kind in (checkpoint.AutoConfig, checkpoint.AutoTokenizer):
        fake = SimpleNamespace(from_pretrained=here(kind))
        monkeypatch.setattr(checkpoint, kind.__name__, fake)
    monkeypatch.setattr(
        checkpoint, "snapshot_download", lambda name: {"somebody/small": str(small)}[name]
    )
    monkeypatch.setattr(checkpoint, "load_pruned", lambda folder: found.append(folder) or model)
    found: list[Path] = []
    model = load_pruned(small)
    assert load_model("somebody/small")[0] is model
    assert found == [small]


def test_records_of_before_they_had_sizes_still_load(small: Path) -> None:
    data = tiny_data(tiny_model("BERT"))
    expected = plain_outputs(load_pruned(small), data.batches, HeadSet())
    change_config(small, lambda c: (c["headsearch"].pop("narrow"), c.pop("auto_map")))
    (small / "modeling_headsearch.py").unlink()
    found = plain_outputs(load_pruned(small), data.batches, HeadSet())
    np.testing.assert_array_equal(found, expected)


def test_other_heads_than_those_that_were_removed_are_refused(tmp_path: Path) -> None:
    # Of the same sizes, but MPNet's heads would get each other's position bias.
    save_pruned(narrowed(tiny_model("MPNet"), HeadSet.of([0])), tmp_path / "small")
    change_config(tmp_path / "small", lambda c: c["headsearch"]["removed"].update({"0": [1]}))
    with pytest.raises(ModelError, match="is not that of the heads"):
        load_pruned(tmp_path / "small")


def test_a_model_that_is_not_as_its_record_says_is_not_saved(tmp_path: Path) -> None:
    model = narrowed(tiny_model("BERT"), HeadSet.of([0, 5]))
    model.config.headsearch["removed"] = {"0": [0, 1]}
    with pytest.raises(
        ModelError, match=r"weight must be \[12, 24\] by the config's record but is"
    ):
        save_pruned(model, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_truncated_weights_are_refused(small: Path) -> None:
    with (small / "model.safetensors").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ModelError, match="could not load the narrow model"):
        load_pruned(small)


def test_saving_never_overwrites_and_leaves_nothing_behind_on_a_full_disk(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_pruned(small)
    with pytest.raises(ModelError, match="must not exist yet"):
        save_pruned(model, small)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(StorageError, match="No space left"):
        save_pruned(model, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("family", sorted(SPECS))
def test_a_bundle_makes_the_same_model_again(family: str) -> None:
    for model in (
        tiny_model(family),
        narrowed(tiny_model(family), HeadSet.of([0, 5, 8, 9, 10, 11])),
    ):
        data = tiny_data(model)
        again = rebuild(bundle(model))
        np.testing.assert_array_equal(
            plain_outputs(again, data.batches, HeadSet()),
            plain_outputs(model, data.batches, HeadSet()),
        )
        assert bundle(again).fingerprint() == bundle(model).fingerprint()


def test_the_fingerprint_sees_every_weight_and_the_configuration() -> None:
    base = bundle(tiny_model("BERT")).fingerprint()
    assert bundle(tiny_model("BERT")).fingerprint() == base
    assert bundle(tiny_model("BERT", seed=1)).fingerprint() != base
    assert bundle(tiny_model("BERT", layer_norm_eps=1e-5)).fingerprint() != base
    model = tiny_model("BERT")
    with torch.no_grad():
        model.classifier.bias[1] += 1e-6
    assert bundle(model).fingerprint() != base


def test_how_a_model_generates_is_kept(tmp_path: Path) -> None:
    model: Any = case("Llama, causal")[0]
    pruned: Any = headsearch.prune(model, [(0, 1)])
    pruned.generation_config = GenerationConfig(eos_token_id=[3, 9], max_length=33)
    save_pruned(pruned, tmp_path / "small")
    loaded: Any = load_pruned(tmp_path / "small")
    assert loaded.generation_config.eos_token_id == [3, 9]
    assert loaded.generation_config.max_length == 33


def test_inputs_are_made_for_models_with_several_ends() -> None:
    config = LlamaConfig(**{**GROUPED, "eos_token_id": [3, 4], "pad_token_id": 0})
    ids = random_inputs(config, 4, 6, padded=True)["input_ids"]
    assert (ids[0] == 3).sum() == 1
    assert (ids != 4).all()


@pytest.mark.parametrize("special", [{"eos_token_id": 50256}, {"pad_token_id": -1}])
def test_inputs_are_made_for_vocabularies_without_the_special_tokens_of_the_config(
    special: dict[str, int],
) -> None:
    config = LlamaConfig(**{**GROUPED, "eos_token_id": 3, "pad_token_id": 0, **special})
    ids = random_inputs(config, 4, 6, padded=True)["input_ids"]
    assert 0 <= int(ids.min()) <= int(ids.max()) < config.vocab_size
    assert (ids[1, 3:] == 0).all()
    assert (ids[0, -1] == 3) is not ("eos_token_id" in special)


def test_adapters_must_be_merged_first() -> None:
    class Adapted(torch.nn.Module):
        def __init__(self, inner: torch.nn.Linear) -> None:
            super().__init__()
            self.inner = inner
            self.in_features, self.out_features = inner.in_features, inner.out_features

        @property
        def weight(self) -> torch.Tensor:
            return self.inner.weight

        @property
        def bias(self) -> torch.Tensor:
            return self.inner.bias

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.inner(values)

    model = tiny_model("BERT")
    attention = model.bert.encoder.layer[0].attention.self
    attention.query = Adapted(attention.query)
    with pytest.raises(ModelError, match="a Adapted holds no weight of its own: merge adapters"):
        headsearch.prune(model, [(0, 1)])


@pytest.mark.parametrize("name", ["BERT", "Llama", "T5", "ViT"])
def test_torch_draws_what_it_would_have_drawn(name: str, tmp_path: Path) -> None:
    model = case(name)[0]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    small = narrowed(model, HeadSet.of([0]))
    save_pruned(small, tmp_path / "small")
    load_pruned(tmp_path / "small")
    rebuild(bundle(model))
    rebuild(bundle(small))
    assert torch.equal(torch.rand(3), expected)


def test_threads_that_load_leave_initialisation_as_it_was(small: Path) -> None:
    before = torch.nn.init.normal_
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(load_pruned, [small] * 12))
    assert torch.nn.init.normal_ is before
    expected = models[0].state_dict()
    for model in models[1:]:
        assert all(torch.equal(each, expected[n]) for n, each in model.state_dict().items())
