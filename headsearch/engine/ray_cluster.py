"""A Ray cluster: reaching it, how large it is, and asking it for more."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from headsearch.errors import EngineError

REACH_SECONDS = 5.0
NAMESPACE = "headsearch"


@dataclass(frozen=True)
class Capacity:
    """What a cluster has.

    Attributes:
        cpus, gpus: now, on all nodes.
        most_gpus: with all the nodes that its autoscaler may add; None: there is none.
    """

    cpus: int
    gpus: int
    most_gpus: int | None


def connect(address: str | None, cpus: int | None = None) -> bool:
    """Connect to Ray, or start it on this machine, and return whether this call did so.

    Args:
        address: of a cluster; None starts Ray on this machine.
        cpus: how many CPUs a Ray started here may use; None: all.

    Raises:
        EngineError: the cluster can't be reached, is of another version, or Ray can't be started.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker without GPUs keeps seeing none in a future Ray too; silences Ray's note on that.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False}
    else:
        _check_address(address)
    try:
        ray.init(address=address or "local", namespace=NAMESPACE, **options)
    except Exception as error:  # of many kinds, a bare Exception among them
        where = "start Ray" if address is None else f"reach a Ray cluster at {address!r}"
        raise EngineError(f"could not {where}: {_reason(error)}") from None
    return True


def capacity(address: str) -> Capacity:
    """Return what a running cluster has; stays connected to it.

    Raises:
        EngineError: the cluster can't be reached.
    """
    connect(address)
    now = ray.cluster_resources()
    try:
        most = ray._private.state.state.get_max_resources_from_cluster_config()
    except (AttributeError, RuntimeError):  # private, and only some clusters have one
        most = None
    most_gpus = None if not most else int(min(most.get("GPU", 0), 1_000_000))
    return Capacity(int(now.get("CPU", 0)), int(now.get("GPU", 0)), most_gpus)


def ask_for(workers: int, resources: dict[str, float]) -> None:
    """Tell the autoscaler, where there is one, how many workers a search can use; 0: none."""
    try:
        request_resources(bundles=[resources] * workers)
    except (RuntimeError, ConnectionError):
        return  # the cluster goes away, and with it what it was asked for


def _check_address(address: str) -> None:
    """Say at once what Ray says after minutes."""
    if "://" in address:
        raise EngineError(
            f"`ray_address` must be HOST:PORT or auto but is {address!r}; start the search on a "
            "machine of the cluster, for example by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or something for Ray to judge
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise EngineError(f"could not reach a Ray cluster at {address!r}: {reason}") from None


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if "ersion mismatch" in text:  # of several lines, which all count
        return " ".join(text.split())
    return (text.splitlines() or [type(error).__name__])[0]
