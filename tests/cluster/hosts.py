"""Real hosts on one machine: network namespaces with addresses of their own, on one bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Self


def why_not() -> str:
    """Return why there can be no hosts here; '' if there can."""
    if not shutil.which("ip"):
        return "there is no ip command here (iproute2)"
    probe = f"tkprobe{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if done.returncode:
        return f"network namespaces are not permitted here: {done.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


class Hosts:
    """Hosts that reach each other and this machine, until they are cut off.

    Args:
        num_hosts: How many.
    """

    def __init__(self, num_hosts: int) -> None:
        self._name = f"tk{os.getpid() % 100000}"
        self._net = f"10.231.{os.getpid() % 250}"
        self._num_hosts = num_hosts
        self.own_address = f"{self._net}.1"

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.own_address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for host in range(self._num_hosts):
                self._add(host)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, host: int) -> str:
        """Return a host's address."""
        return f"{self._net}.{host + 2}"

    def before(self, host: int) -> list[str]:
        """Return the words that make a command run on a host."""
        return ["ip", "netns", "exec", self._space(host)]

    def cut(self, host: int) -> None:
        """Pull a host's cable: nobody is told."""
        _ip("link", "set", self._cable(host), "down")

    def heal(self, host: int) -> None:
        """Put it back."""
        _ip("link", "set", self._cable(host), "up")

    def close(self) -> None:
        """Take all away; may be called twice."""
        for host in range(self._num_hosts):
            subprocess.run(["ip", "netns", "del", self._space(host)], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)

    @property
    def _bridge(self) -> str:
        return f"{self._name}br"

    def _space(self, host: int) -> str:
        return f"{self._name}n{host}"

    def _cable(self, host: int) -> str:
        return f"{self._name}c{host}"

    def _add(self, host: int) -> None:
        space, cable, plug = self._space(host), self._cable(host), f"{self._name}p{host}"
        _ip("netns", "add", space)
        _ip("link", "add", cable, "type", "veth", "peer", "name", plug)
        _ip("link", "set", plug, "netns", space)
        _ip("link", "set", cable, "master", self._bridge)
        _ip("link", "set", cable, "up")
        for command in (
            ("addr", "add", f"{self.address(host)}/24", "dev", plug),
            ("link", "set", plug, "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", space, *command)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
