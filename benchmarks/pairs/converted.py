"""Turns a trained classifier that a package carries as a pickle into a `save_pretrained` folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
)


def read_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint; only tensors are unpickled, no code is run."""
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True, map_location="cpu")
    # What older versions of transformers saved besides weights.
    return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}


def write_model(
    folder: Path,
    settings: Mapping[str, object],
    weights: Mapping[str, torch.Tensor],
    classes: Sequence[str],
) -> None:
    """Write a BERT classifier as safetensors.

    Args:
        folder: where to.
        settings: of the checkpoint's own `config.json`; only what shapes the model is taken.
        weights: `bert.*`, `classifier.weight` and `classifier.bias`, neither more nor less.
        classes: names of the classes.
    """
    config = BertConfig(
        **{name: settings[name] for name in SHAPE},
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
    )
    model = BertForSequenceClassification(config)
    model.load_state_dict(dict(weights))  # strict: every weight has its place
    model.save_pretrained(folder)


def write_tokenizer(folder: Path, vocabulary: Path, pattern: str) -> None:
    """Write a tokenizer whose tokens are what a pattern matches.

    A `BertTokenizer` would split at letters of a word and at punctuation, which is wrong for
    sequences and formulas; their authors' own tokenizer classes split by a pattern as here.
    """
    words = vocabulary.read_text(encoding="utf-8").split("\n")
    ids = {word: i for i, word in enumerate(words) if word}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=512,
    ).save_pretrained(folder)
