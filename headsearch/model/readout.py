"""Turns a model's outputs into the rows that are scored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from headsearch.task.readout import LABELS, SEQUENCES, TOKENS, Readout


def read(readout: Readout, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the rows of a batch, (rows, classes), in the logits' own dtype.

    Args:
        readout: what is wanted.
        logits: (examples, classes), or (examples, tokens, classes) of a head that has them for
            every token.
        inputs: what the model was given; of sequences, their tokens.
    """
    if readout.kind == TOKENS:
        assert readout.places is not None, "tokens have places"
        places = torch.from_numpy(readout.places).to(logits.device)
        return logits[places[:, 0], places[:, 1]]
    if readout.kind == LABELS:
        rows = logits.flatten()[:, None]
        return torch.cat([torch.zeros_like(rows), rows], dim=1)
    if readout.kind == SEQUENCES:
        return _surprise(logits, inputs)[:, None]
    return logits


def _surprise(logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return minus the log-likelihood of each sequence after its first token, (examples,)."""
    wanted, there = inputs["input_ids"][:, 1:], inputs["attention_mask"][:, 1:]
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), wanted, reduction="none"
    )
    # Summed in float64: a sequence has hundreds of terms, and a head's effect is small.
    return (losses.double() * there).sum(dim=1).to(torch.float32)
