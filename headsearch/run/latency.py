"""Loads models and measures them against the first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headsearch.errors import InputError
from headsearch.model.checkpoint import WEIGHTS, load_config, load_model
from headsearch.model.families import max_tokens
from headsearch.model.latency import compare, peak_memory, threads
from headsearch.model.onnx import FILE, OnnxSession, export_onnx, require_onnx
from headsearch.model.parameters import parameters
from headsearch.model.samples import input_names, of_images, random_inputs, sample_inputs
from headsearch.run.session import environment


@dataclass(frozen=True)
class _Contender:
    name: str
    parameters: int | None  # None: in ONNX Runtime, which also keeps what memory it once took
    most_tokens: int | None
    images: bool  # what it reads, so that tokens are of no account
    prepare: Callable[[int, int], Callable[[], object]]  # for (batch, tokens)


def latency(
    models: Sequence[str],
    *,
    batches: Sequence[int],
    tokens: Sequence[int],
    repeats: int,
    thread_count: int | None = None,
    device: str = "cpu",
    onnx: bool = False,
) -> dict[str, Any]:
    """Measure models against the first one, for every batch size and number of tokens.

    Models that read images have no tokens, and are measured once for every batch size.

    Args:
        models: folders or hub names; a folder with `model.onnx` runs in ONNX Runtime.
        batches, tokens: sizes of the input.
        repeats: rounds, see `model.latency.rounds`.
        thread_count: CPU threads; None: as torch and ONNX Runtime choose.
        device: `cpu` or `cuda`.
        onnx: measure each model in ONNX Runtime too.

    Returns:
        JSON values: how it was measured, and `results`, one for each size and model; `tokens` of
        images are None.

    Raises:
        InputError, ModelError: a value is out of range, or a model can't be loaded.
    """
    for name, values in (("batch", batches), ("tokens", tokens), ("repeats", [repeats])):
        for value in values:
            if value < 1:
                raise InputError(f"`{name}` must be at least 1 but got {value}")
    if thread_count is not None and thread_count < 1:
        raise InputError(f"`threads` must be at least 1 but got {thread_count}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("`device` is cuda but torch sees no GPU")
    if onnx:
        require_onnx()
        if device != "cpu":
            raise InputError("ONNX Runtime is measured on the CPU only but `device` is cuda")
    with ExitStack() as stack:
        stack.enter_context(threads(thread_count))
        contenders = []
        for name in models:
            contenders.append(_load(name, device, thread_count))
            if onnx and not _is_onnx(name):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                contenders.append(_converted(name, Path(folder), thread_count))
        for contender in contenders:
            most = contender.most_tokens
            if most is not None and max(tokens) > most:
                raise InputError(
                    f"`tokens` must be at most {most}, the positions of {contender.name}, "
                    f"but got {max(tokens)}"
                )
        images = all(contender.images for contender in contenders)
        counts: Sequence[int | None] = [None] if images else tokens
        results = [
            result
            for batch in batches
            for count in counts
            for result in _measure(contenders, batch, count, repeats, device)
        ]
        used = torch.get_num_threads()
    return {
        "reference": contenders[0].name,
        "repeats": repeats,
        "threads": used,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "environment": environment(),
        "results": results,
    }


def _measure(
    contenders: Sequence[_Contender], batch: int, tokens: int | None, repeats: int, device: str
) -> list[dict[str, Any]]:
    calls = [contender.prepare(batch, tokens or 1) for contender in contenders]
    timings = compare(calls, repeats, device)
    return [
        {
            "model": contender.name,
            "batch": batch,
            "tokens": tokens,
            "milliseconds": dict(zip(("median", "low", "high"), timing.milliseconds, strict=True)),
            "ratio": dict(zip(("median", "low", "high"), timing.ratio, strict=True)),
            "peak_bytes": None if contender.parameters is None else peak_memory(call, device),
            "parameters": contender.parameters,
        }
        for contender, call, timing in zip(contenders, calls, timings, strict=True)
    ]


def _is_onnx(name: str) -> bool:
    return (Path(name) / FILE).is_file() and not (Path(name) / WEIGHTS).exists()


def _load(name: str, device: str, thread_count: int | None) -> _Contender:
    if _is_onnx(name):
        if device != "cpu":
            raise InputError(f"{name} is an ONNX model, which is measured on the CPU only")
        return _in_onnx_runtime(name, Path(name), load_config(name), thread_count)
    model, _ = load_model(name)
    model = model.to(device)

    def prepare(batch: int, tokens: int) -> Callable[[], object]:
        inputs = {n: t.to(device) for n, t in sample_inputs(model, batch, tokens).items()}
        return lambda: model(**inputs)

    images = of_images(model.config)
    return _Contender(name, parameters(model), max_tokens(model), images, prepare)


def _converted(name: str, folder: Path, thread_count: int | None) -> _Contender:
    model, tokenizer = load_model(name)
    export_onnx(model, input_names(model, tokenizer), folder)
    return _in_onnx_runtime(f"{name} (ONNX Runtime)", folder, model.config, thread_count)


def _in_onnx_runtime(name: str, folder: Path, config: Any, thread_count: int | None) -> _Contender:
    session = OnnxSession(folder, thread_count)

    def prepare(batch: int, tokens: int) -> Callable[[], object]:
        inputs = random_inputs(config, batch, tokens)
        return lambda: session(inputs)

    return _Contender(name, None, None, of_images(config), prepare)
