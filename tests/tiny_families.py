"""Tiny random models of all families with all that may be on top, and batches for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from headsearch.task.batches import Batch
from tests.tiny import BERT_LIKE, COMMON, SPECS

# Eight heads of two features, which share two, one or four key-value heads.
GROUPED: dict[str, Any] = {
    **COMMON,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
ALBERT = {**BERT_LIKE, "embedding_size": 16}
MODERNBERT = {
    **BERT_LIKE,
    "num_hidden_layers": 4,
    "global_attn_every_n_layers": 3,
    "local_attention": 4,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
DEBERTA = {
    **BERT_LIKE,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
}
GPT2 = {
    **COMMON,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 40,
    "n_positions": 40,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
OPT = {
    **COMMON,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 40,
    "max_position_embeddings": 40,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
BART = {
    **COMMON,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": 3,
}
T5 = {
    **COMMON,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
XLM_R = {**BERT_LIKE, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
SEQUENCE, TOKENS, CAUSAL = "ForSequenceClassification", "ForTokenClassification", "ForCausalLM"

# Name of the case: (family, model class, configuration).
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{name: (name, f"{stem}{SEQUENCE}", spec) for name, (stem, spec) in SPECS.items()},
    "XLM-R": ("RoBERTa", f"XLMRoberta{SEQUENCE}", XLM_R),
    "CamemBERT": ("RoBERTa", f"Camembert{SEQUENCE}", XLM_R),
    "ALBERT": ("ALBERT", f"Albert{SEQUENCE}", ALBERT),
    "ALBERT, two groups of two layers": (
        "ALBERT",
        f"Albert{SEQUENCE}",
        {**ALBERT, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "ModernBERT": ("ModernBERT", f"ModernBert{SEQUENCE}", MODERNBERT),
    "ModernBERT, mean": (
        "ModernBERT",
        f"ModernBert{SEQUENCE}",
        {**MODERNBERT, "classifier_pooling": "mean", "attention_bias": True},
    ),
    "DeBERTa-v2": ("DeBERTa-v2", f"DebertaV2{SEQUENCE}", DEBERTA),
    "DeBERTa-v3": (
        "DeBERTa-v2",
        f"DebertaV2{SEQUENCE}",
        {**DEBERTA, "share_att_key": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"},
    ),
    "GPT-2": ("GPT-2", f"GPT2{SEQUENCE}", GPT2),
    "OPT": ("OPT", f"OPT{SEQUENCE}", OPT),
    "Llama": ("Llama", f"Llama{SEQUENCE}", GROUPED),
    "Llama, no groups": (
        "Llama",
        f"Llama{SEQUENCE}",
        {**GROUPED, "num_attention_heads": 4, "num_key_value_heads": 4, "attention_bias": True},
    ),
    "Llama, one group": ("Llama", f"Llama{SEQUENCE}", {**GROUPED, "num_key_value_heads": 1}),
    "Mistral": ("Llama", f"Mistral{SEQUENCE}", {**GROUPED, "sliding_window": 4}),
    "Qwen2": ("Llama", f"Qwen2{SEQUENCE}", GROUPED),
    "Qwen3": ("Llama", f"Qwen3{SEQUENCE}", GROUPED),
    "BART": ("BART", f"Bart{SEQUENCE}", BART),
    "T5": ("T5", f"T5{SEQUENCE}", T5),
    "T5, version 1.1": ("T5", f"T5{SEQUENCE}", {**T5, "feed_forward_proj": "gated-gelu"}),
    "ViT": ("ViT", "ViTForImageClassification", IMAGE),
    "DeiT": ("DeiT", "DeiTForImageClassification", IMAGE),
    "DeiT, with a teacher": ("DeiT", "DeiTForImageClassificationWithTeacher", IMAGE),
    # Regression, and other things on top.
    "GPT-2, regression": ("GPT-2", f"GPT2{SEQUENCE}", {**GPT2, "num_labels": 1}),
    "BERT, tokens": ("BERT", f"Bert{TOKENS}", BERT_LIKE),
    "DistilBERT, tokens": ("DistilBERT", f"DistilBert{TOKENS}", SPECS["DistilBERT"][1]),
    "Llama, tokens": ("Llama", f"Llama{TOKENS}", GROUPED),
    "RoBERTa, masked": ("RoBERTa", "RobertaForMaskedLM", SPECS["RoBERTa"][1]),
    "GPT-2, causal": ("GPT-2", "GPT2LMHeadModel", GPT2),
    "OPT, causal": ("OPT", f"OPT{CAUSAL}", OPT),
    "Llama, causal": ("Llama", f"Llama{CAUSAL}", GROUPED),
    "Qwen3, causal, tied": ("Llama", f"Qwen3{CAUSAL}", {**GROUPED, "tie_word_embeddings": True}),
    "BART, generating": ("BART", "BartForConditionalGeneration", BART),
    "T5, generating": ("T5", "T5ForConditionalGeneration", T5),
    "T5, tokens": ("T5", f"T5{TOKENS}", T5),
}


@cache
def case(name: str) -> tuple[nn.Module, Sequence[Batch]]:
    """Return a model and batches, made once; neither may be changed."""
    _, kind, settings = CASES[name]
    model = lively(kind, settings)
    return model, batches_for(model)


def lively(kind: str, settings: dict[str, Any]) -> nn.Module:
    """Return a model of a class of transformers, with weights so large that attention matters."""
    made = getattr(transformers, kind)
    torch.manual_seed(0)
    model: nn.Module = made(made.config_class(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def batches_for(model: nn.Module, per_batch: int = 4) -> tuple[Batch, ...]:
    """Return three random batches, the last two with padding."""
    random, config = np.random.default_rng(0), model.config
    if model.main_input_name == "pixel_values":
        size = (per_batch, 3, config.image_size, config.image_size)
        return tuple(
            Batch({"pixel_values": random.normal(size=size).astype(np.float32)}) for _ in range(3)
        )
    batches = []
    for shortest, longest in ((5, 5), (4, 7), (3, 10)):
        lengths = np.linspace(shortest, longest, per_batch).astype(int)
        mask = (np.arange(longest)[None] < lengths[:, None]).astype(np.int64)
        ids = random.integers(5, 60, size=mask.shape)
        ids[np.arange(per_batch), lengths - 1] = 3  # the end that BART's and T5's classifiers read
        arrays = {"input_ids": np.where(mask == 1, ids, config.pad_token_id)}
        arrays["attention_mask"] = mask
        if type(model).__name__.endswith("ForConditionalGeneration"):
            arrays["decoder_input_ids"] = random.integers(5, 60, size=(per_batch, 3))
        batches.append(Batch(arrays))
    return tuple(batches)
