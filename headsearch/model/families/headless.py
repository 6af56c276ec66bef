"""What is left of an attention layer without heads, where the stock module can't do without."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headsearch.errors import ModelError


class Headless:
    """Put before a stock attention class: adds the output projection's bias and nothing else.

    Attributes:
        headless_output: the name of the output projection.
        layer_idx: which layer of a key-value cache is its own.
    """

    headless_output: str
    layer_idx: int

    def forward(
        self, hidden_states: Tensor, *_: Any, past_key_values: Any = None, **__: Any
    ) -> tuple[Tensor, None]:
        """Return what the stock forward would: the projection of no context, and no weights."""
        if past_key_values is not None:
            # transformers reads from a layer of the cache how many tokens there were before, so
            # an empty layer holds one feature for each.
            own = getattr(past_key_values, "self_attention_cache", past_key_values)
            place = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            own.update(place, place, self.layer_idx)
        projected = hidden_states.new_zeros(hidden_states.shape)
        bias = getattr(self, self.headless_output).bias
        return (projected if bias is None else projected + bias), None


def make_headless(attention: Any, output: str, *kinds: type) -> None:
    """Turn an attention module into one without heads; its parameters keep their names.

    Args:
        attention: what has lost its heads.
        output: the name of its output projection.
        kinds: classes with `Headless` before a stock class.

    Raises:
        ModelError: none is made for the module's class.
    """
    for kind in kinds:
        if issubclass(kind, type(attention)):
            attention.__class__ = kind
            attention.headless_output = output
            return
    raise ModelError(
        f"a {type(attention).__name__} can't lose all of its heads: headsearch knows no headless "
        "form of it"
    )
