"""What headsearch has to know of a model family: a small protocol, and more for the fast path.

Everything but the fast path needs little: where the output projections are, and how heads are cut
out. Scoring then runs the stock forward under gates. A family that also says how its layers are
put together is scored layer by layer (`headsearch.scoring.evaluator`), many times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

SEARCH, FAST_PATH, GATE, NARROW, SAVE = "search", "fast path", "gate", "narrow", "save/load"
# What a family may be able to do. `Family.limits` may hold the second and fourth; without the
# fourth there is nothing to save, and the others every family can.
CAPABILITIES = (SEARCH, FAST_PATH, GATE, NARROW, SAVE)

NO_LIMITS: Mapping[str, str] = MappingProxyType({})
STOCK_FORWARD: Mapping[str, str] = MappingProxyType(
    {FAST_PATH: "scored by the stock forward under gates"}
)


class HeadLayer(Protocol):
    """Where the heads of one attention layer are.

    Heads are consecutive blocks of `head_size` features of the output projection's input.
    """

    @property
    def output(self) -> nn.Module:
        """The output projection, `nn.Linear` or transformers' `Conv1D`: heads are gated there."""
        ...

    @property
    def heads(self) -> int:
        """How many heads the layer has now."""
        ...

    @property
    def head_size(self) -> int:
        """Features of one head."""
        ...


@dataclass(frozen=True)
class OutputProjection:
    """All that gates need of one attention layer; see `HeadLayer`."""

    output: nn.Module
    heads: int
    head_size: int


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
    """One attention layer of a model, taken apart for the fast path; also a `HeadLayer`.

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
    """How the models of one family are built; `headsearch.testing` checks that it is so.

    A family of one's own is any object with these members; `headsearch.register_family` adds it.
    """

    @property
    def name(self) -> str:
        """What the family is called."""
        ...

    @property
    def covers(self) -> tuple[str, ...]:
        """Other names under which models of this very structure are known."""
        ...

    @property
    def note(self) -> str:
        """What a user has to know of it, in a few words; empty if nothing."""
        ...

    @property
    def limits(self) -> Mapping[str, str]:
        """What it can't do, of `FAST_PATH` and `NARROW`, each with the reason."""
        ...

    def matches(self, model: nn.Module) -> bool:
        """Whether the model is of this family, judged from its module structure."""
        ...

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        """Return the attention layers, lowest first; fresh views of the model's own modules."""
        ...

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        """Cut out of a layer, in place, all heads but those kept; some or none are left.

        The stock forward must then equal the one under gates, and `layers` tell the new number.
        What is left may depend on the heads that are kept alone, not on the order of cuts.
        """
        ...


@runtime_checkable
class FastFamily(Family, Protocol):
    """What the fast path needs beside it; the classifier must read the first token alone."""

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        """Return the attention layers taken apart, lowest first."""
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
