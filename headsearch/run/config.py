"""What a run was asked, checked and as JSON."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np

from headsearch.errors import InputError
from headsearch.search.weight import HEADS, UNITS
from headsearch.task.metric import METRICS
from headsearch.task.sources import lacks

ENGINES = ("auto", "inline", "ray")
DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = tuple(UNITS)
EXPORT_FORMATS = ("narrow", "zeroed", "onnx")
# Metrics that are a mean over examples, of which a paired test can be exact.
CERTIFIABLE = ("accuracy",)
NO_TEST = "there is no paired test of {} here that is valid in finite samples"
# What the values of a field may be, by its annotation.
TYPES: dict[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "int": (Integral, "a whole number"),  # NumPy's too
    "float": (Real, "a number"),
}


# Which part of which data is read.
PARTS = {"subset": "data", "split": "data", "certify_split": "certify_data"}
# What says how to use a cluster, and is of no use on one machine alone.
OF_CLUSTERS = ("ray_address", "workers", "gpus_per_worker")


def inherited(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of another run with those that are given now, which override them.

    Where the inline engine is given now, what the other run asked of a cluster is dropped; where
    data are, a subset or split that these do not have.
    """
    drop = set(OF_CLUSTERS if given.get("engine") == "inline" else ())
    for name, data in PARTS.items():
        if data in given and lacks(given[data], name.removeprefix("certify_")):
            drop.add(name)
    return {name: value for name, value in before.items() if name not in drop} | dict(given)


@dataclass(frozen=True)
class RunConfig:
    """The options of `headsearch run`; see its help for each. NumPy's numbers become Python's.

    Raises:
        InputError: a value is of another type or out of its range; the text names the option and
            the rule.
    """

    model: str
    data: str
    subset: str | None = None
    split: str | None = None
    text_column: str = "text"
    pair_column: str | None = None
    label_column: str = "label"
    image_column: str = "image"
    map: str | None = None
    metric: str = "accuracy"
    max_drop: float = 0.01
    weight: str = HEADS
    certify_data: str | None = None
    certify_split: str | None = None
    certify_fraction: float | None = None
    confidence: float = 0.95
    max_length: int | None = None
    max_examples: int | None = None
    engine: str = "auto"
    ray_address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    threads_per_worker: int | None = None
    shards: int | None = None
    dtype: str = "float32"
    cache_mb: int | None = None
    max_evaluations: int | None = None
    max_expansions: int | None = None
    patience: int = 4
    bound_evaluations: int = 0
    time_limit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        if not 0 <= self.max_drop < 1:  # also False for NaN
            raise InputError(f"`max_drop` must be in [0, 1) but got {self.max_drop}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"`confidence` must be in [0.5, 1) but got {self.confidence}")
        if self.certify_fraction is not None and not 0 < self.certify_fraction < 1:
            raise InputError(
                f"`certify_fraction` must be in (0, 1) but got {self.certify_fraction}"
            )
        named = {"metric": METRICS, "weight": WEIGHTS, "engine": ENGINES, "dtype": DTYPES}
        for name, choices in named.items():
            value = getattr(self, name)
            if value not in choices:
                raise InputError(f"`{name}` must be one of {', '.join(choices)} but got {value!r}")
        if self.certify_data is not None and self.certify_fraction is not None:
            raise InputError(
                "`certify_data` and `certify_fraction` exclude each other but got "
                f"{self.certify_data!r} and {self.certify_fraction}"
            )
        if self.certify_split is not None and self.certify_data is None:
            raise InputError("`certify_split` needs `certify_data`, of which it is a split")
        if self.certifies and self.metric not in CERTIFIABLE:
            raise InputError(
                "`metric` must be accuracy for a certificate (`certify_data`, `certify_fraction`) "
                f"but got {self.metric!r}: {NO_TEST.format(self.metric)}"
            )
        least = {
            "max_length": 3,
            "max_examples": 1,
            "workers": 1,
            "threads_per_worker": 1,
            "shards": 1,
            "cache_mb": 0,
            "max_evaluations": 1,
            "max_expansions": 0,
            "patience": 0,
            "bound_evaluations": 0,
            "seed": 0,
        }
        for name, limit in least.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise InputError(f"`{name}` must be at least {limit} but got {value}")
        for name in ("gpus_per_worker", "time_limit"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:  # also False for NaN
                raise InputError(f"`{name}` must not be negative but got {value}")
        gpus = self.gpus_per_worker or 0.0
        if gpus > 1 and gpus % 1:
            raise InputError(
                f"`gpus_per_worker` must be a share of one GPU or a whole number but got {gpus}"
            )
        if self.engine == "inline" and (self.workers or 1) > 1:
            raise InputError(
                f"the inline engine has 1 worker but `workers` is {self.workers}; use engine ray"
            )
        if self.engine == "inline" and self.ray_address is not None:
            raise InputError("`ray_address` needs the engine ray but `engine` is inline")

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind, _, optional = str(field.type).partition(" | ")
            accepted, rule = TYPES[kind]
            if value is None and optional:
                continue
            if not isinstance(value, accepted) or isinstance(value, bool):
                raise InputError(f"`{field.name}` must be {rule} but got {value!r}")
            if accepted is not str and type(value) not in (int, float):  # JSON knows no others
                object.__setattr__(self, field.name, _plain(value, accepted))

    @property
    def certifies(self) -> bool:
        """Whether a certificate is asked for."""
        return self.certify_data is not None or self.certify_fraction is not None

    def allowing(self, given: str | None) -> RunConfig:
        """Return this configuration, read from a file, with the `map` that the user gives now.

        Raises:
            InputError: one of the two has a `map` and the other has none. No code is run because a
                file names it.
        """
        if (self.map is None) != (given is None):
            if given is None:
                raise InputError(
                    f"`map` must be given again: the run's data went through {self.map!r}, and no "
                    "code is run because a file names it"
                )
            raise InputError(f"`map` must not be given as the run had none but got {given!r}")
        return dataclasses.replace(self, map=given)

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunConfig:
        """Return the config that `to_json` gave.

        Raises:
            InputError: an option is unknown, missing, or of a wrong value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
                raise InputError(f"unknown option {name!r} in a run's configuration; {hint}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"a run's configuration is not complete: {error}") from None


def _plain(value: Any, kind: type) -> int | float:
    """Return a number of another library as Python's own."""
    if kind is Integral:
        return int(value)
    # The decimal that was written: 0.05 of float32 is 0.05, not the 0.05000000074505806 next to it.
    return float(str(value)) if isinstance(value, np.floating) else float(value)


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Return the seconds that a duration such as `90`, `30m`, `1.5h` or `1h30m` stands for.

    Raises:
        InputError: it is not such a duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not parts or "".join(n + u for n, u in parts) != text.strip():
        raise InputError(f"a duration must be like 90, 30m, 1.5h or 1h30m but got {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
