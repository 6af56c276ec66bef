"""Writes a model as ONNX, and checks it in ONNX Runtime. An optional extra: headsearch[onnx]."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headsearch.errors import InputError, ModelError
from headsearch.model.samples import largest_difference, logits_of, longest, sample_inputs
from headsearch.model.staging import first_line

NEEDED = ("onnx", "onnxscript", "onnxruntime")
FILE, OUTPUT = "model.onnx", "logits"
TOLERANCE = 1e-4
# Tokens that outputs are compared on at most; some models have positions for 100,000.
LONGEST = 512


def require_onnx() -> None:
    """Raise InputError unless the packages of the extra are installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}, which is not installed: "
            "pip install 'headsearch[onnx]'"
        )


def export_onnx(model: nn.Module, names: Sequence[str], place: Path) -> float:
    """Write `model.onnx` into a folder and compare it with the model in ONNX Runtime.

    Args:
        model: any model of a known family, on the CPU, in eval mode.
        names: its inputs; each is (batch, tokens) int64, both of any size, or (batch, channels,
            height, width) float32, with a batch of any size.
        place: the folder.

    Returns:
        How far the logits are apart at most; see `samples.largest_difference`.

    Raises:
        InputError: the packages of the extra are not installed.
        ModelError: it can't be written as ONNX, or the outputs differ by more than 1e-4.
    """
    require_onnx()
    eager: Any = copy.deepcopy(model)
    # ONNX Runtime refuses the attention of a layer with no head left, but not step by step.
    eager.set_attn_implementation("eager")
    examples = sample_inputs(model, 2, 5)
    sizes = {
        name: {0: "batch"} if name == "pixel_values" else {0: "batch", 1: "tokens"}
        for name in names
    }
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                _Positional(eager, names).eval(),
                tuple(examples[name] for name in names),
                dynamo=True,
                input_names=list(names),
                output_names=[OUTPUT],
                dynamic_shapes={"inputs": tuple(sizes[name] for name in names)},
                verbose=False,
            )
            program.save(place / FILE)
    except RuntimeError as error:
        reason = first_line(error.__cause__ or error)  # its own text is advice on how to report it
        raise ModelError(f"could not write the model as ONNX: {reason}") from None
    session, most = OnnxSession(place), longest(model, LONGEST)
    pairs = []
    for batch, tokens in ((1, 1), (3, 7), (2, min(most, 40)), (1, most)):
        inputs = sample_inputs(model, batch, tokens, padded=True)
        inputs = {name: inputs[name] for name in names}
        pairs.append((logits_of(model, inputs), session(inputs)))
    apart = largest_difference(pairs)
    if not apart <= TOLERANCE:
        raise ModelError(
            f"ONNX Runtime's outputs must be within {TOLERANCE:g} of the model's but are "
            f"{apart:.2g} apart"
        )
    return apart


class OnnxSession:
    """A `model.onnx` in ONNX Runtime on the CPU, called like a model.

    Args:
        folder: where it is.
        threads: how many threads one call may use; default: as ONNX Runtime chooses.

    Raises:
        InputError: the packages of the extra are not installed.
        ModelError: there is none, or it can't be loaded.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / FILE), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own have no common root but this
            raise ModelError(
                f"could not load {folder / FILE} in ONNX Runtime: {first_line(error)}"
            ) from None

    @property
    def names(self) -> list[str]:
        """The names of the inputs."""
        return [each.name for each in self._session.get_inputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> np.ndarray:
        """Return the logits, (examples, classes); other inputs than its own are left out."""
        arrays = {name: inputs[name].numpy() for name in self.names}
        try:
            logits: np.ndarray = self._session.run([OUTPUT], arrays)[0]
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime could not run the model: {first_line(error)}") from None
        return logits


class _Positional(nn.Module):
    """Takes a model's inputs in order and gives the logits alone."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, list(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits, (examples, classes)."""
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of torchvision and of its own deprecated calls to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
