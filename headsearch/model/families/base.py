"""What headsearch has to know of a model family: one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation


@dataclass(frozen=True)
class FeedForward:
    """Where a block's first linear layer and the activation right after it are.

    Attributes:
        owner: the module that has both.
        linear, activation: their names in it.
    """

    owner: nn.Module
    linear: str
    activation: str

    @property
    def is_gelu(self) -> bool:
        """Whether the activation is the exact GELU, not an approximation."""
        activation = getattr(self.owner, self.activation)
        if isinstance(activation, nn.GELU):
            return activation.approximate == "none"
        return type(activation) is GELUActivation and activation.act is functional.gelu


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer of a model, taken apart.

    Attributes:
        query, key, value: the projections; heads are consecutive blocks of `head_size` rows.
        output: the output projection; its *input* is where heads are gated.
        head_size: features of one head.
        finish: (projected (..., hidden), layer input (..., hidden)) -> layer output: all that
            comes after the output projection (residual sums, norms, feed-forward).
        feed_forward: see `FeedForward`; None: one does not follow the other.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    head_size: int
    finish: Callable[[Tensor, Tensor], Tensor]
    feed_forward: FeedForward | None = None

    @property
    def heads(self) -> int:
        """How many heads the layer has."""
        return self.query.out_features // self.head_size


class Family(Protocol):
    """How the models of one family are built; every family passes one conformance suite.

    The classifier of all families so far reads the first token of the last layer alone.
    """

    @property
    def name(self) -> str:
        """What the family is called."""
        ...

    def matches(self, model: nn.Module) -> bool:
        """Whether the model is of this family, judged from its module structure."""
        ...

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        """Return the attention layers, lowest first; fresh views of the model's own modules."""
        ...

    def embed(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the input of the first layer, (examples, tokens, hidden)."""
        ...

    def position_bias(self, model: nn.Module, layer: int, tokens: int) -> Tensor | None:
        """Return what is added to the attention scores, (1, heads, tokens, tokens), if any."""
        ...

    def classify(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """Return logits (examples, classes) of the last layer's output (examples, …, hidden)."""
        ...

    def after_narrowing(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        """Mend what else in a layer depends on its heads, once its projections were narrowed."""
        ...
