"""Checks of launch files: each returns what is wrong, so a test can plant a fault and look."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click

from headsearch.cli import cli


def wildcards(text: str) -> list[str]:
    """Return every address range of a text that means the whole world, comments included."""
    found = re.findall(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F:]*::)/\d{1,3}", text)
    return [word for word in found if ipaddress.ip_network(word, strict=False).prefixlen == 0]


def listens_everywhere(text: str) -> bool:
    """Return whether a text has an address that means all interfaces, comments left out."""
    code = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    return re.search(r"(?<![\d.])0\.0\.0\.0(?!/\d)|host[=: ]+['\"]?::['\"]?\s*$", code) is not None


def written_tokens(text: str) -> list[str]:
    """Return what looks like a token that was written into a file."""
    return re.findall(r"\b[0-9a-f]{32,}\b", text) + re.findall(
        r"RAY_AUTH_TOKEN=(?!\$)\S+", text.replace("RAY_AUTH_TOKEN_PATH", "")
    )


def ray_up_faults(config: dict[str, Any]) -> list[str]:
    """Return what is insecure or wasteful in a configuration of `ray up`."""
    faults = []
    options = config["docker"]["run_options"]
    if "--env=RAY_AUTH_MODE=token" not in options:
        faults.append("token authentication is off")
    folder = next(iter(config["file_mounts"]))
    if f"--env=RAY_AUTH_TOKEN_PATH={folder}/auth_token" not in options:
        faults.append("Ray is not told where the token is")
    starts = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    for command in starts:
        words = dict(w.split("=", 1) for w in shlex.split(command) if "=" in w)
        if words.get("--dashboard-host") != "127.0.0.1":
            faults.append("the dashboard is not on loopback")
        if config["provider"]["type"] == "local" and (
            words.get("--num-cpus") != "0" or words.get("--num-gpus") != "0"
        ):
            faults.append("the head takes workers")
    if config["provider"]["type"] == "local":
        return faults
    if not 0 < config.get("idle_timeout_minutes", 5) <= 10:
        faults.append("idle workers are kept")
    for name, node in config["available_node_types"].items():
        head = name == config["head_node_type"]
        if head and (node["resources"].get("CPU") != 0 or node["resources"].get("GPU") != 0):
            faults.append("the head takes workers")
        if not head and node.get("min_workers", 0) != 0:
            faults.append("workers are kept without work")
        if _is_spot(node["node_config"]) == head:
            faults.append(f"{name} is on the wrong kind of machine")
        if config["provider"]["type"] == "aws" and not node["node_config"].get("SecurityGroupIds"):
            faults.append(f"Ray opens ssh of {name} to the world")  # see aws.yaml
        if config["provider"]["type"] == "gcp":
            nets = node["node_config"].get("networkInterfaces")
            if not nets or any("accessConfigs" in net for net in nets):
                faults.append(f"{name} has an outside address")
    return faults


def _is_spot(node: dict[str, Any]) -> bool:
    return (
        node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )


def rayjob_faults(documents: list[dict[str, Any]]) -> list[str]:
    """Return what is insecure, wasteful or inconsistent in a RayJob and what comes with it."""
    kinds = {document["kind"]: document for document in documents}
    spec = kinds["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    faults = []
    if cluster.get("authOptions", {}).get("mode") != "token":
        faults.append("token authentication is off")
    if head["rayStartParams"].get("num-cpus") != "0":
        faults.append("the head takes workers")
    if head.get("serviceType", "ClusterIP") != "ClusterIP":
        faults.append("the head's service is reachable from outside")
    if not spec.get("shutdownAfterJobFinishes") or "ttlSecondsAfterFinished" not in spec:
        faults.append("the cluster stays when the search is over")
    if not spec.get("activeDeadlineSeconds") or not spec.get("backoffLimit"):
        faults.append("no deadline, or no retry")
    if not cluster.get("enableInTreeAutoscaling"):
        faults.append("workers are not scaled")
    if not 0 < cluster.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0) <= 600:
        faults.append("idle workers are kept")
    claim = kinds["PersistentVolumeClaim"]
    if claim["spec"]["accessModes"] != ["ReadWriteMany"]:
        faults.append("the volume can't follow the head")
    # Where the dashboard listens on all addresses of the pod, a policy must keep others out.
    policy = kinds.get("NetworkPolicy", {"spec": {"podSelector": {}, "ingress": [{}]}})["spec"]
    guarded = policy["podSelector"].get("matchLabels")
    if not guarded or not all(rule.get("from") for rule in policy["ingress"]):
        faults.append("the network is open")
    for name, group in [("head", head), *((w["groupName"], w) for w in workers)]:
        template = group["template"]
        pod = template["spec"]
        if template.get("metadata", {}).get("labels") != guarded:
            faults.append(f"the policy does not cover {name}")
        if pod.get("securityContext", {}).get("runAsNonRoot") is not True:
            faults.append(f"{name} may run as root")
        volumes = {
            volume["name"]
            for volume in pod.get("volumes", [])
            if volume.get("persistentVolumeClaim", {}).get("claimName") == claim["metadata"]["name"]
        }
        for container in pod["containers"]:
            if not volumes & {mount["name"] for mount in container.get("volumeMounts", [])}:
                faults.append(f"{name} does not mount the volume")
            if not container["image"].endswith(f":ray-{cluster['rayVersion']}"):
                faults.append(f"{name} has another Ray than rayVersion")
            resources = container.get("resources", {})
            if not resources.get("limits") or resources["limits"] != resources.get("requests"):
                faults.append(f"{name} has no limits")
            elif resources["limits"].get("nvidia.com/gpu", 0) != (name != "head"):
                faults.append(f"{name} has the wrong number of GPUs")
    return faults


def script_faults(text: str) -> list[str]:
    """Return what is insecure in a Slurm script."""
    faults = []
    if not re.search(r"^export RAY_AUTH_MODE=token$", text, flags=re.MULTILINE):
        faults.append("token authentication is off")
    if not re.search(r"^export RAY_AUTH_TOKEN_PATH=", text, flags=re.MULTILINE):
        faults.append("Ray is not told where the token is")
    if "umask 077" not in text:
        faults.append("others may read the token")
    if re.search(r"--dashboard-host[= ](?!127\.0\.0\.1\b)", text):
        faults.append("the dashboard is not on loopback")
    return faults


def called(line: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, arguments) of each call of headsearch in a shell line, quoted ones too.

    A call of start.sh counts as the `headsearch run` that it makes.
    """
    words = shlex.split(line, comments=True)
    ended = next((i for i, word in enumerate(words) if re.match(r"\d?>|\|\|$", word)), len(words))
    words = words[:ended]
    for word in words:
        if " " in word:
            yield from called(word)
    for place, word in enumerate(words):
        rest = words[place + 1 :]
        if word == "headsearch" and rest:
            yield rest[0], rest[1:]
        if re.fullmatch(r"(.*/)?(start|slurm|slurm-shared)\.sh", word) and len(rest) >= 3:
            run, model, data, *options = rest
            yield "run", [model, "--data", data, "--out", run, *options]


def parse(command: str, arguments: list[str]) -> None:
    """Parse a call of headsearch without running it.

    Raises:
        click.UsageError: there is no such command, or it does not take these arguments.
    """
    if command not in cli.commands:
        raise click.UsageError(f"no such command: {command}")
    cli.commands[command].make_context(command, list(arguments))
