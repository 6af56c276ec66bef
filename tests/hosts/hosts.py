"""Hosts with addresses of their own on one machine, each with a Ray node if wanted.

A host is a tree of processes in network, mount and process-id namespaces of its own; the hosts'
links meet at a bridge in one more network namespace. Nothing is named and nothing is made in the
machine's own namespaces, so all of it is gone once the processes are, and those die with the
process that started them, whatever happens to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
PORT = 6379
# Ray's least for its object store; the model and the data take far less.
STORE_BYTES = 80 << 20
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    # Else a head, but no other node, asks for a token if one lies in the home folder.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
# A host that can't be reached is given up after some ten seconds, not after Ray's half minute.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
# Machines that run the tests may be slow: whoever waits so long has found a fault.
PATIENCE = 120.0


def why_not() -> str | None:
    """Return what this machine lacks, if anything."""
    tools = [tool for tool in ("ip", "nsenter", "setpriv", "unshare") if shutil.which(tool) is None]
    if tools:
        return f"needs {', '.join(tools)} (Debian packages iproute2 and util-linux)"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    try:
        with Network() as network:
            network.host()
    except (OSError, RuntimeError) as error:
        return f"network namespaces can't be made: {error}"
    return None


def wait_for(what: str, met: Callable[[], Any]) -> None:
    """Wait until a condition is met.

    Raises:
        TimeoutError: it was not.
    """
    deadline = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE:.0f} seconds")
        time.sleep(0.02)


class Host:
    """One host; see `Network.host`."""

    def __init__(self, address: str, holder: subprocess.Popen[bytes], init: int) -> None:
        self.address = address
        self._holder = holder
        self._init = init  # the process that all of the host's namespaces live by
        self._namespace = os.readlink(f"/proc/{init}/ns/pid")

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a command on this host; its output is kept."""
        enter = ["nsenter", f"--target={self._init}", "--net", "--mount", "--pid"]
        return subprocess.Popen(
            [*enter, f"--wdns={ROOT}", *map(str, arguments)],
            env=os.environ | ENVIRONMENT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def check(self, *arguments: object) -> str:
        """Run a command on this host and return its output.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError(f"{arguments[0]}: {(err or out).strip()}")
        return out

    def processes(self) -> dict[int, str]:
        """Return process id, as this machine counts, and title of all that runs on this host."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._init:
                with contextlib.suppress(OSError):
                    if os.readlink(entry / "ns" / "pid") == self._namespace:
                        title = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                        found[int(entry.name)] = title.decode(errors="replace").strip()
        return found

    def pull_cable(self) -> None:
        """Take this host off the network: nobody is told."""
        self.check("ip", "link", "set", "eth0", "down")

    def hide(self, folder: Path) -> None:
        """Give this host a folder of its own in place of what others see there."""
        self.check("mount", "-t", "tmpfs", "tmpfs", folder)

    def join(self, head: Host, cpus: int) -> None:
        """Start a Ray node here, of the cluster whose head is given; the head starts it."""
        role = [f"--address={head.address}:{PORT}"]
        if head is self:
            role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
            role.append(f"--system-config={json.dumps(HEALTH)}")
        self.check(
            RAY,
            "start",
            *role,
            f"--node-ip-address={self.address}",
            f"--num-cpus={cpus}",
            f"--object-store-memory={STORE_BYTES}",
        )

    def turn_off(self) -> None:
        """Kill everything on this host at once."""
        self._holder.kill()  # and the kernel its child, and with that all of the namespace
        self._holder.wait()
        wait_for(f"{self.address} is off", lambda: not self.processes())


class Network:
    """A bridge that hosts are on."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self._switch, self._bridge = _hold("--net")
        try:
            self._ip("link", "add", "bridge", "type", "bridge")
            self._ip("link", "set", "bridge", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def host(self) -> Host:
        """Add a host. Its /tmp/ray and /dev/shm are its own; all else in the file system is not."""
        number = len(self.hosts) + 1
        holder, init = _hold("--net", "--mount", "--pid", "--mount-proc", "--kill-child")
        host = Host(f"10.77.0.{number}", holder, init)
        self.hosts.append(host)
        Path("/tmp/ray").mkdir(exist_ok=True)
        host.hide(Path("/tmp/ray"))
        host.hide(Path("/dev/shm"))
        port = f"port{number}"
        self._ip("link", "add", port, "type", "veth", "peer", "eth0", "netns", str(init))
        self._ip("link", "set", port, "master", "bridge", "up")
        host.check("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.check("ip", "link", "set", "lo", "up")
        host.check("ip", "link", "set", "eth0", "up")
        return host

    def close(self) -> None:
        """Turn everything off."""
        for host in self.hosts:
            host.turn_off()
        self._switch.kill()
        self._switch.wait()

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(
            ["nsenter", f"--target={self._bridge}", "--net", "ip", *arguments],
            text=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextlib.contextmanager
def cluster(workers: int, spare: int = 0) -> Iterator[list[Host]]:
    """Yield a head without CPUs, so many hosts with one CPU each, and hosts without Ray."""
    with Network() as network:
        head, *others = hosts = [network.host() for _ in range(1 + workers + spare)]
        head.join(head, cpus=0)
        for host in others[:workers]:
            host.join(head, cpus=1)
        yield hosts


def child(process: int) -> int | None:
    """Return the id of a process's child, if it has one."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return None
    return int(found[0]) if found else None


def kill(process: subprocess.Popen[str]) -> None:
    """Kill what `Host.start` started, by SIGKILL."""
    inside = child(process.pid)
    assert inside is not None, "it has ended by itself"
    os.kill(inside, signal.SIGKILL)


def _hold(*namespaces: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process that does nothing in new namespaces, and return what started it, and its id.

    Raises:
        RuntimeError: they can't be made.
    """
    # Says so once it is there.
    die_with_me = ["setpriv", "--pdeathsig", "KILL"]
    holder = subprocess.Popen(
        [*die_with_me, "unshare", *namespaces, "sh", "-c", "echo; exec sleep infinity"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    with holder.stdout, holder.stderr:
        if not holder.stdout.readline():
            text = holder.stderr.read().decode(errors="replace").strip()
            raise RuntimeError(f"{text} (exit code {holder.wait()})")
    return holder, child(holder.pid) or holder.pid
