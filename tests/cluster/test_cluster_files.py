"""Launch files: valid, secure by default, of one version, and what the README says of them."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster import checks

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(path.name for path in CLUSTER.iterdir())
RAY_UP = ["aws.yaml", "gcp.yaml", "onprem.yaml"]
SLURM = ["slurm.sh", "slurm-shared.sh"]
LAUNCHERS = [*RAY_UP, "rayjob.yaml", *SLURM]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
Fault = Callable[[Any], Any]


def text(name: str) -> str:
    return (CLUSTER / name).read_text(encoding="utf-8")


def ray_up(name: str) -> dict[str, Any]:
    # Copied, since YAML's aliases are one object: a fault planted in one place would be in two.
    loaded: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(text(name))))
    return loaded


def rayjob() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(
        json.dumps(list(yaml.safe_load_all(text("rayjob.yaml"))))
    )
    return loaded


def cluster_spec(documents: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = documents[-1]["spec"]["rayClusterSpec"]
    return spec


# Valid


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_are_what_ray_s_schema_asks_for(name: str) -> None:
    place = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    schema = json.loads(place.read_text(encoding="utf-8"))
    # Ray fills available_node_types in for `local`, and its schema wants nothing else there.
    jsonschema.validate(ray_up(name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**ray_up(name), "idle_timeout": 5}, schema)


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_the_files_as_ray_up_does(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    prepared = prepare_config(ray_up(name))
    validate_config(prepared)
    head, *workers = sorted(
        prepared["available_node_types"].values(), key=lambda node: node["max_workers"]
    )
    if name == "onprem.yaml":
        assert head["min_workers"] == head["max_workers"] == 2  # both worker_ips, always
    else:
        assert head["max_workers"] == 0
        assert [(node["min_workers"], node["max_workers"]) for node in workers] == [(0, 8)]


# Fields without `omitempty` in KubeRay's ray-operator/apis/ray/v1/raycluster_types.go, and those
# that Kubernetes asks of pods, claims and network policies (API reference, v1).
REQUIRED = {
    "RayJob": [
        "apiVersion",
        "metadata.name",
        "spec.entrypoint",
        "spec.rayClusterSpec.headGroupSpec.rayStartParams",
        "spec.rayClusterSpec.headGroupSpec.template.spec.containers.*.name",
        "spec.rayClusterSpec.headGroupSpec.template.spec.containers.*.image",
        "spec.rayClusterSpec.workerGroupSpecs.*.groupName",
        "spec.rayClusterSpec.workerGroupSpecs.*.minReplicas",
        "spec.rayClusterSpec.workerGroupSpecs.*.maxReplicas",
        "spec.rayClusterSpec.workerGroupSpecs.*.rayStartParams",
        "spec.rayClusterSpec.workerGroupSpecs.*.template.spec.containers.*.name",
        "spec.rayClusterSpec.workerGroupSpecs.*.template.spec.containers.*.image",
    ],
    "PersistentVolumeClaim": [
        "apiVersion",
        "metadata.name",
        "spec.accessModes",
        "spec.resources.requests.storage",
    ],
    "NetworkPolicy": ["apiVersion", "metadata.name", "spec.podSelector"],
}
# The same file and rayjob_types.go, KubeRay 1.6: everything that this file may say.
KNOWN = {
    "RayJob": {
        "submissionMode",
        "entrypoint",
        "backoffLimit",
        "activeDeadlineSeconds",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    },
    "cluster": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "head": {"serviceType", "rayStartParams", "template"},
    "worker": {
        "groupName",
        "replicas",
        "minReplicas",
        "maxReplicas",
        "rayStartParams",
        "template",
    },
}


def missing(value: Any, path: str) -> bool:
    for position, key in enumerate(parts := path.split(".")):
        if key == "*":
            rest = ".".join(parts[position + 1 :])
            return not value or any(missing(item, rest) for item in value)
        if not isinstance(value, dict) or key not in value:
            return True
        value = value[key]
    return value in (None, "", [])


@pytest.mark.parametrize("kind", REQUIRED)
def test_kubernetes_objects_have_the_fields_that_are_required(kind: str) -> None:
    (document,) = [d for d in rayjob() if d["kind"] == kind]
    assert [path for path in REQUIRED[kind] if missing(document, path)] == []
    for path in REQUIRED[kind]:  # the check sees each of them go
        broken = copy.deepcopy(document)
        *way, last = path.split(".")
        place = broken
        for key in way:
            place = place[0] if key == "*" else place[key]
        (place[0] if isinstance(place, list) else place).pop(last)
        assert missing(broken, path), path


def test_the_rayjob_says_nothing_that_kuberay_does_not_know() -> None:
    job = rayjob()[-1]
    cluster = job["spec"]["rayClusterSpec"]
    assert job["apiVersion"] == "ray.io/v1"
    assert set(job["spec"]) <= KNOWN["RayJob"]
    assert set(cluster) <= KNOWN["cluster"]
    assert set(cluster["headGroupSpec"]) <= KNOWN["head"]
    assert all(set(group) <= KNOWN["worker"] for group in cluster["workerGroupSpecs"])
    params = cluster["headGroupSpec"]["rayStartParams"]
    assert all(isinstance(value, str) for value in params.values())  # a map of strings


# Secure by default


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_opened_to_the_world(name: str) -> None:
    assert checks.wildcards(text(name)) == []


@pytest.mark.parametrize("planted", ["0.0.0.0/0", "::/0", "CidrIp: 10.0.0.0/0", "--cidr=0.0.0.0/0"])
@pytest.mark.parametrize("name", FILES)
def test_a_planted_wildcard_is_found(name: str, planted: str) -> None:
    assert checks.wildcards(f"{text(name)}\n{planted}\n") != []


@pytest.mark.parametrize("name", FILES)
def test_no_token_is_in_a_file(name: str) -> None:
    assert checks.written_tokens(text(name)) == []


@pytest.mark.parametrize("planted", ["0123456789abcdef" * 4, "--env=RAY_AUTH_TOKEN=secret"])
@pytest.mark.parametrize("name", FILES)
def test_a_planted_token_is_found(name: str, planted: str) -> None:
    assert checks.written_tokens(f"{text(name)}\n{planted}\n") != []


@pytest.mark.parametrize("name", FILES)
def test_only_a_pod_behind_a_policy_listens_on_all_addresses(name: str) -> None:
    assert checks.listens_everywhere(text(name)) == (name == "rayjob.yaml")
    assert checks.listens_everywhere(f"{text(name)}\nray start --dashboard-host=0.0.0.0\n")


def test_ray_s_dashboard_is_on_loopback_where_a_file_does_not_say() -> None:
    from ray.scripts.scripts import start

    (option,) = [p for p in start.params if p.name == "dashboard_host"]
    assert option.default == "127.0.0.1"  # slurm.sh rests on it


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_are_secure_and_thrifty(name: str) -> None:
    assert checks.ray_up_faults(ray_up(name)) == []


RAY_UP_FAULTS: dict[str, Fault] = {
    "token authentication is off": lambda c: c["docker"]["run_options"].pop(0),
    "Ray is not told where the token is": lambda c: c["docker"]["run_options"].pop(1),
    "the dashboard is not on loopback": lambda c: c["head_start_ray_commands"].append(
        "ray start --head --dashboard-host=0.0.0.0 --num-cpus=0 --num-gpus=0"
    ),
}
CLOUD_FAULTS: dict[str, Fault] = {
    "idle workers are kept": lambda c: c.update(idle_timeout_minutes=600),
    "the head takes workers": lambda c: c["available_node_types"]["head"].update(resources={}),
    "workers are kept without work": lambda c: c["available_node_types"]["worker"].update(
        min_workers=1
    ),
}


def node_config(config: dict[str, Any], name: str) -> dict[str, Any]:
    node: dict[str, Any] = config["available_node_types"][name]["node_config"]
    return node


@pytest.mark.parametrize(
    ("name", "fault", "plant"),
    [
        *[(name, fault, plant) for name in RAY_UP for fault, plant in RAY_UP_FAULTS.items()],
        *[(name, fault, plant) for name in RAY_UP[:2] for fault, plant in CLOUD_FAULTS.items()],
        (
            "onprem.yaml",
            "the head takes workers",
            lambda c: c["head_start_ray_commands"].append(
                "ray start --head --dashboard-host=127.0.0.1"
            ),
        ),
        (
            "aws.yaml",
            "worker is on the wrong kind of machine",
            lambda c: node_config(c, "worker").pop("InstanceMarketOptions"),
        ),
        (
            "gcp.yaml",
            "worker is on the wrong kind of machine",
            lambda c: node_config(c, "worker").pop("scheduling"),
        ),
        (
            "aws.yaml",
            "Ray opens ssh of head to the world",
            lambda c: node_config(c, "head").pop("SecurityGroupIds"),
        ),
        (
            "aws.yaml",
            "Ray opens ssh of worker to the world",
            lambda c: node_config(c, "worker").pop("SecurityGroupIds"),
        ),
        (
            "gcp.yaml",
            "head has an outside address",
            lambda c: node_config(c, "head").pop("networkInterfaces"),
        ),
        (
            "gcp.yaml",
            "worker has an outside address",
            lambda c: node_config(c, "worker")["networkInterfaces"][0].update(accessConfigs=[{}]),
        ),
    ],
)
def test_a_fault_planted_in_a_ray_up_file_is_found(name: str, fault: str, plant: Fault) -> None:
    config = ray_up(name)
    plant(config)
    assert checks.ray_up_faults(config) == [fault]


def test_the_rayjob_is_secure_and_thrifty() -> None:
    assert checks.rayjob_faults(rayjob()) == []


def container(documents: list[dict[str, Any]], group: str) -> dict[str, Any]:
    cluster = cluster_spec(documents)
    place = cluster["headGroupSpec"] if group == "head" else cluster["workerGroupSpecs"][0]
    found: dict[str, Any] = place["template"]["spec"]["containers"][0]
    return found


RAYJOB_FAULTS: list[tuple[str, Fault]] = [
    ("token authentication is off", lambda d: cluster_spec(d).pop("authOptions")),
    (
        "token authentication is off",
        lambda d: cluster_spec(d)["authOptions"].update(mode="disabled"),
    ),
    (
        "the head takes workers",
        lambda d: cluster_spec(d)["headGroupSpec"]["rayStartParams"].pop("num-cpus"),
    ),
    (
        "the head's service is reachable from outside",
        lambda d: cluster_spec(d)["headGroupSpec"].update(serviceType="LoadBalancer"),
    ),
    (
        "the cluster stays when the search is over",
        lambda d: d[-1]["spec"].pop("shutdownAfterJobFinishes"),
    ),
    ("no deadline, or no retry", lambda d: d[-1]["spec"].pop("activeDeadlineSeconds")),
    ("no deadline, or no retry", lambda d: d[-1]["spec"].pop("backoffLimit")),
    ("workers are not scaled", lambda d: cluster_spec(d).pop("enableInTreeAutoscaling")),
    ("idle workers are kept", lambda d: cluster_spec(d).pop("autoscalerOptions")),
    (
        "the volume can't follow the head",
        lambda d: d[0]["spec"].update(accessModes=["ReadWriteOnce"]),
    ),
    ("the network is open", lambda d: d[1]["spec"]["ingress"].append({})),
    (
        "the policy does not cover gpu",
        lambda d: cluster_spec(d)["workerGroupSpecs"][0]["template"].pop("metadata"),
    ),
    (
        "head may run as root",
        lambda d: cluster_spec(d)["headGroupSpec"]["template"]["spec"].pop("securityContext"),
    ),
    ("head does not mount the volume", lambda d: container(d, "head").pop("volumeMounts")),
    ("gpu does not mount the volume", lambda d: container(d, "gpu").pop("volumeMounts")),
    (
        "gpu has another Ray than rayVersion",
        lambda d: container(d, "gpu").update(image="registry.example.com/headsearch:latest"),
    ),
    ("head has no limits", lambda d: container(d, "head").pop("resources")),
    (
        "gpu has the wrong number of GPUs",
        lambda d: [
            part.pop("nvidia.com/gpu") for part in container(d, "gpu")["resources"].values()
        ],
    ),
]


@pytest.mark.parametrize(("fault", "plant"), RAYJOB_FAULTS)
def test_a_fault_planted_in_the_rayjob_is_found(fault: str, plant: Fault) -> None:
    documents = rayjob()
    plant(documents)
    assert checks.rayjob_faults(documents) == [fault]


def test_a_rayjob_without_its_network_policy_is_found() -> None:
    documents = [document for document in rayjob() if document["kind"] != "NetworkPolicy"]
    assert "the network is open" in checks.rayjob_faults(documents)


@pytest.mark.parametrize("name", SLURM)
def test_slurm_scripts_are_secure(name: str) -> None:
    assert checks.script_faults(text(name)) == []


@pytest.mark.parametrize("name", SLURM)
@pytest.mark.parametrize(
    ("fault", "old", "new"),
    [
        ("token authentication is off", "export RAY_AUTH_MODE=token", "RAY_AUTH_MODE=token"),
        ("token authentication is off", "export RAY_AUTH_MODE=token", "# token"),
        ("Ray is not told where the token is", "export RAY_AUTH_TOKEN_PATH", "token"),
        ("others may read the token", "umask 077", "umask 022"),
        ("the dashboard is not on loopback", "--num-cpus", "--dashboard-host 0.0.0.0 --num-cpus"),
    ],
)
def test_a_fault_planted_in_a_slurm_script_is_found(
    name: str, fault: str, old: str, new: str
) -> None:
    assert old in text(name)
    assert checks.script_faults(text(name).replace(old, new)) == [fault]


def test_the_image_does_not_run_as_root_and_asks_for_a_token() -> None:
    lines = text("Dockerfile").splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER ray"
    assert any(re.match(r"ENV .*\bRAY_AUTH_MODE=token\b", line) for line in lines)


# Of one version


def other_versions(content: str) -> list[str]:
    """Return versions of pinned packages, and images, that are not those of constraints.txt."""
    names = "|".join(map(re.escape, PINS))
    said = re.findall(rf"(?i)\b({names})(?:\[\w+\])?(?:==|>=|~=)([\d.]*\d)", content)
    said += [("ray", v) for v in re.findall(r"rayproject/ray:([\d.]*\d|\w+)", content)]
    said += [("ray", v) for v in re.findall(r"headsearch:(?:ray-)?([\d.]*\d|\w+)", content)]
    said += [("ray", v) for v in re.findall(r"rayVersion: *[\"']?([\d.]*\d)", content)]
    said += [("ray", v) for v in re.findall(r"\bRay (\d+\.\d+\.\d+)", content)]
    return [f"{name} {version}" for name, version in said if version != PINS[name.lower()]]


@pytest.mark.parametrize("name", FILES)
def test_versions_are_those_of_the_constraints(name: str) -> None:
    assert other_versions(text(name)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "pip install torch==1.0",
        "pip install transformers>=4.57.1",
        "pip install ray[default]==2.9.0",
        "FROM rayproject/ray:latest",
        "FROM rayproject/ray:2.9.0-py311-gpu",
        "image: registry.example.com/headsearch:ray-2.9.0",
        "image: registry.example.com/headsearch:latest",
        'rayVersion: "2.9.0"',
    ],
)
def test_a_planted_other_version_is_found(planted: str) -> None:
    assert len(other_versions(planted)) == 1


def test_every_container_launcher_names_the_same_image() -> None:
    named = {
        name: set(re.findall(r"registry\.example\.com\S+", text(name)))
        for name in ["Dockerfile", "README.md", "rayjob.yaml", *RAY_UP]
    }
    assert set(map(frozenset, named.values())) == {
        frozenset({f"registry.example.com/headsearch:ray-{PINS['ray']}"})
    }


def test_the_image_installs_torch_and_transformers_under_the_constraints() -> None:
    content = text("Dockerfile")
    assert {"torch", "transformers", "ray"} <= set(PINS)
    assert re.search(r"COPY .*\bconstraints\.txt\b", content)
    (install,) = re.findall(r"pip install (.*?) *\\?$", content, flags=re.MULTILINE)
    assert install.split()[1:] == ["-c", "/home/ray/source/constraints.txt", "/home/ray/source"]


def test_the_image_has_the_python_that_types_are_checked_for() -> None:
    (image,) = re.findall(r"^FROM (\S+)$", text("Dockerfile"), flags=re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^python_version = "([\d.]+)"', project, flags=re.MULTILINE)
    assert image == f"rayproject/ray:{PINS['ray']}-py{version.replace('.', '')}-gpu"


def test_what_the_image_copies_exists() -> None:
    copied = [line.split()[2:-1] for line in text("Dockerfile").splitlines() if "COPY" in line]
    sources = [source for sources in copied for source in sources]
    assert "cluster/start.sh" in sources
    assert all((ROOT / source).exists() for source in sources)


# What the README says of them


def test_the_readme_names_every_file_and_no_other() -> None:
    links = re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\)", text("README.md"), flags=re.MULTILINE)
    assert all(name == target for name, target in links)
    assert sorted(name for name, _ in links) == [name for name in FILES if name != "README.md"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_starts_by_start_sh(name: str) -> None:
    used = text("README.md" if name in RAY_UP else name)
    assert "start.sh" in used


def shell_lines(name: str) -> list[str]:
    """Return the lines that a person or a program runs: blocks of the README, entry points."""
    if name == "rayjob.yaml":
        return [rayjob()[-1]["spec"]["entrypoint"]]
    blocks = re.findall(r"^ {4}(\S.*)$", text("README.md"), flags=re.MULTILINE)
    inline = re.findall(r"`((?:headsearch|start\.sh) [^`]*--[^`]*)`", text("README.md"))
    return blocks + [line for line in inline if "[options]" not in line]


@pytest.mark.parametrize("name", ["README.md", "rayjob.yaml"])
def test_calls_of_headsearch_parse(name: str) -> None:
    calls = [call for line in shell_lines(name) for call in checks.called(line)]
    for command, arguments in calls:
        checks.parse(command, arguments)
    commands = {command for command, _ in calls}
    assert commands == ({"run"} if name == "rayjob.yaml" else {"run", "resume", "status"})


@pytest.mark.parametrize(
    "line",
    [
        "headsearch run model --data dev.csv --gpu-per-worker 1",
        "headsearch search model --data dev.csv",
        "headsearch status",
        "headsearch resume runs/large --metric f1",
        "ray exec cluster/aws.yaml 'tmux new -d \"start.sh a b c --workers many > a.log 2>&1\"'",
        "sbatch -N 4 cluster/slurm.sh runs/large task/model task/dev.csv --nodes 4",
    ],
)
def test_a_planted_wrong_call_is_found(line: str) -> None:
    (call,) = checks.called(line)
    with pytest.raises(click.UsageError):
        checks.parse(*call)


def test_each_launcher_of_the_readme_has_start_watch_resume_and_stop() -> None:
    parts = dict(
        part.split("\n", 1) for part in re.split(r"^## ", text("README.md"), flags=re.MULTILINE)[1:]
    )
    for title in ["AWS, Google Cloud, your own machines", "Kubernetes", "Slurm"]:
        assert "headsearch status" in parts[title], title
        assert "Resume it" in parts[title], title
    assert "ray up -y" in parts["AWS, Google Cloud, your own machines"]
    assert "ray down -y" in parts["AWS, Google Cloud, your own machines"]
    assert "kubectl apply -f" in parts["Kubernetes"]
    assert "kubectl delete rayjob headsearch" in parts["Kubernetes"]
    assert rayjob()[-1]["metadata"]["name"] == "headsearch"
    assert "sbatch" in parts["Slurm"]
    assert "scancel" in parts["Slurm"]
