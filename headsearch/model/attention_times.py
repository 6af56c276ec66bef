"""What the heads of each layer cost in time: the table behind weights of measured latency."""

from __future__ import annotations

import copy
import inspect
import itertools
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import nn

from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import family_of, head_map, least_first
from headsearch.model.latency import rounds
from headsearch.model.narrow import RECORD, narrowed
from headsearch.model.samples import sample_inputs
from headsearch.model.sizes import sizes_of

# Seconds of one measurement at least; attention is short, and there are many to measure.
LEAST = 0.005
# What tells a layer where it is, but does not change what it computes.
_PLACES = ("layer_id", "layer_idx", "layer_index")


def attention_times(
    model: nn.Module, batch: int, tokens: int, *, repeats: int = 9
) -> list[list[int]]:
    """Return the microseconds that a forward saves by heads removed from each layer.

    Each layer's attention is timed alone, narrowed to every number of heads, on the inputs that
    it has in the model; layers that are alike are timed once. That is done on this machine, on its
    GPU if it has one, and differs from call to call: keep the table with what is decided by it. As
    fewer heads never take longer but for noise, what they save is made monotone by isotonic
    regression.

    Args:
        model: a model of a known family that can be narrowed, in eval mode.
        batch, tokens: the size of the input.
        repeats: rounds of measurements, see `latency.rounds`.

    Returns:
        For each layer, for 0, 1, … all of its heads removed, what that saves; 0 for none.
    """
    if torch.cuda.is_available():
        model = copy.deepcopy(model).cuda()
    shape, device = head_map(model), next(model.parameters()).device
    paths = _attention_paths(model)
    alike: dict[object, int] = {}  # the first layer of each kind
    first = [
        alike.setdefault(_kind(model.get_submodule(path), heads), number)
        for number, (path, heads) in enumerate(zip(paths, shape.heads_per_layer, strict=True))
    ]
    inputs = {name: t.to(device) for name, t in sample_inputs(model, batch, tokens).items()}
    arguments = _arguments(model, [paths[number] for number in alike.values()], inputs)
    attentions: dict[int, list[nn.Module]] = {number: [] for number in alike.values()}
    orders = least_first(model)
    for left in range(max(shape.heads_per_layer) + 1):
        small = narrowed(model, _all_but(orders, shape, left))
        for number, found in attentions.items():
            if left <= shape.heads_per_layer[number]:
                found.append(small.get_submodule(paths[number]))
    tables = {}
    for number, found in attentions.items():
        given, named, times = arguments[paths[number]]
        calls = [_call(attention, given, named) for attention in reversed(found)]
        kind = "cpu" if device.type == "cpu" else str(device)
        seconds = rounds(calls, repeats, kind, LEAST)  # (heads removed, rounds)
        saved = times * np.median(seconds[0] - seconds, axis=1) * 1e6
        monotone = IsotonicRegression().fit_transform(np.arange(len(saved)), saved)
        tables[number] = [round(each) for each in (monotone - monotone[0]).tolist()]
    return [tables[number] for number in first]


def _attention_paths(model: nn.Module) -> list[str]:
    """Return for each layer the path of the smallest module that holds all that narrowing cuts."""
    layers = family_of(model).layers(model)
    config: Any = copy.deepcopy(model.config)
    record = getattr(config, RECORD, None)
    whole = head_map(model) if record is None else HeadMap.from_mask(record)[0]
    one = HeadSet.of(whole.start(layer) for layer in range(whole.layers))
    setattr(config, RECORD, whole.to_mask(one))
    cut = sizes_of(type(model), config).record["modules"]
    names = {id(module): path for path, module in model.named_modules()}
    outputs = [names[id(layer.output)] for layer in layers]
    inside: dict[str, list[str]] = {output: [output] for output in outputs}
    for path in cut:
        inside[max(outputs, key=lambda output: len(_common([output, path])))].append(path)
    return [".".join(_common(inside[output])) for output in outputs]


def _common(paths: list[str]) -> list[str]:
    """Return how far paths are the same, name by name; of a path alone, its parent."""
    steps = [path.split(".") for path in paths]
    if len(set(paths)) == 1:
        return steps[0][:-1]
    same = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*steps, strict=False))
    return [names[0] for names in same]


def _kind(attention: nn.Module, heads: int) -> object:
    plain = [
        (name, value)
        for name, value in sorted(vars(attention).items())
        if isinstance(value, (bool, int, float, str)) and name not in _PLACES
    ]
    sizes = [(name, tuple(value.shape)) for name, value in attention.named_parameters()]
    return heads, type(attention), tuple(plain), tuple(sizes)


def _arguments(
    model: nn.Module, paths: list[str], inputs: dict[str, torch.Tensor]
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any], int]]:
    """Return what each module is called with in a forward of the model, and how often."""
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any], int]] = {}

    def watch(path: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen[path] = given, named, 1 + (seen[path][2] if path in seen else 0)

        return model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)

    handles = [watch(path) for path in paths]
    # A cache of keys would grow from one timed call to the next.
    cached = "use_cache" in inspect.signature(model.forward).parameters
    try:
        with torch.inference_mode():
            model(**inputs, **({"use_cache": False} if cached else {}))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _call(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return lambda: module(*given, **named)


def _all_but(orders: list[list[int]], shape: HeadMap, left: int) -> HeadSet:
    """Return all heads but so many of each layer, in the order in which least goes with them."""
    return HeadSet.of(
        shape.index(layer, head)
        for layer, order in enumerate(orders)
        for head in order[: max(0, len(order) - left)]
    )
