"""A tiny real tokenizer, and a tiny real model folder that knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model

GOOD = [f"good{i}" for i in range(12)]
BAD = [f"bad{i}" for i in range(12)]
NEUTRAL = [f"word{i}" for i in range(20)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_tokenizer(words: list[str] | None = None) -> Any:
    """Return a word-level tokenizer with BERT's special tokens."""
    vocabulary = [*SPECIAL, *(words if words is not None else GOOD + BAD + NEUTRAL)]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def texts_and_labels(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return texts in which good or bad words prevail, and which of them do."""
    random = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        good = bool(random.integers(2))
        main = random.choice(GOOD if good else BAD, random.integers(2, 6))
        rest = random.choice(NEUTRAL + (BAD if good else GOOD), random.integers(0, 6))
        texts.append(" ".join(random.permutation([*main, *rest])))
        labels.append("pos" if good else "neg")
    return texts, labels


def trained_model(seed: int = 0, **changes: Any) -> nn.Module:
    """Return a tiny BERT that was really trained on such texts, in a second or two."""
    model: Any = tiny_model("BERT", seed, num_labels=2, vocab_size=60, **changes)
    model.config.id2label, model.config.label2id = {0: "neg", 1: "pos"}, {"neg": 0, "pos": 1}
    tokenizer = tiny_tokenizer()
    texts, labels = texts_and_labels(320, seed=1)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    target = torch.tensor([label == "pos" for label in labels]).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        model(**inputs, labels=target).loss.backward()
        optimizer.step()
    return model.eval()


def save_folder(folder: Path, model: Any) -> Path:
    """Write a `save_pretrained` folder with tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
