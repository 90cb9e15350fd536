"""A small LAN on one machine: each host a network namespace, its card a TAP device on a switch in this process.

The switch drops and delays frames as a rule says. Nothing leaves the machine. Needs root, /dev/net/tun and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from tests.daemons import Daemons, Node

T = TypeVar("T")

DROP = None
PASS = 0.0
NETWORK = "10.77.0"

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_ETHERNET, _MAX_FRAME = 14, 65536
_SYN, _ACK = 0x02, 0x10
_TUN = Path("/dev/net/tun")


def why_there_is_no_lan() -> str | None:
    """None where namespaces and TAP devices can be made."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    return None if _TUN.exists() else "there is no /dev/net/tun"


needs_lan = pytest.mark.skipif(why_there_is_no_lan() is not None, reason=str(why_there_is_no_lan()))


@dataclass(frozen=True, slots=True)
class Frame:
    """What a rule decides on. Hosts are counted from 0; `protocol` is tcp, udp, arp or other."""

    source: int
    target: int
    protocol: str
    source_port: int
    target_port: int
    opens_connection: bool
    num_bytes: int


Rule = Callable[[Frame], float | None]
"""Seconds of delay, or DROP."""


@dataclass
class Host:
    """A namespace with a card eth0. What runs in its thread sees its network."""

    index: int
    namespace: str
    address: str
    taps: dict[str, int] = field(default_factory=dict)
    thread: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        run("ip", "netns", "add", self.namespace)
        self.thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(self.namespace,))

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self.thread.submit(function, *args).result()

    def ip(self, *arguments: str) -> str:
        """iproute2 in its namespace."""
        return run("ip", "-n", self.namespace, *arguments)

    @property
    def tap(self) -> int:
        """The switch's end of its card."""
        return self.taps["eth0"]

    def plug_in(self, name: str, *, is_up: bool = True) -> None:
        self.taps[name] = self.call(_open_tap, name)
        if is_up:
            self.ip("link", "set", name, "up")

    def set_address(self, address: str) -> None:
        """Its card has this one and no other."""
        self.ip("addr", "flush", "dev", "eth0", "scope", "global")
        self.ip("addr", "add", address, "dev", "eth0")
        self.address = address.partition("/")[0]

    def close(self) -> None:
        self.thread.shutdown()
        for tap in self.taps.values():
            os.close(tap)
        run("ip", "netns", "del", self.namespace)


class Lan:
    """`rule` may be replaced at any time."""

    def __init__(self, num_hosts: int, *, overlay_first: bool = False, is_up: bool = True) -> None:
        self.rule: Rule = lambda frame: PASS
        self.hosts: list[Host] = []
        self._num_hosts = num_hosts
        self._has_overlay = overlay_first
        self._is_up = is_up
        self._is_over = threading.Event()
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Lan:
        with contextlib.ExitStack() as undo:
            for index in range(self._num_hosts):
                host = Host(index, f"exo{os.getpid()}-{index}", f"{NETWORK}.{index + 1}")
                undo.callback(host.close)
                self.hosts.append(host)
                self._equip(host)
            switch = threading.Thread(target=self._run, name="switch", daemon=True)
            switch.start()
            undo.callback(switch.join)
            undo.callback(self._is_over.set)
            self._ending = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def _equip(self, host: Host) -> None:
        host.ip("link", "set", "lo", "up")
        if self._has_overlay:  # with a lower index than the card, as when a VPN starts first; it leads nowhere
            host.plug_in("tailscale0")
            host.ip("addr", "add", f"100.64.0.{host.index + 1}/32", "dev", "tailscale0")
        host.plug_in("eth0", is_up=self._is_up)
        host.set_address(f"{host.address}/24")

    def _run(self) -> None:
        late: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        taps = {host.tap: host.index for host in self.hosts}
        while not self._is_over.is_set():
            pause_s = min(0.1, late[0][0] - time.monotonic()) if late else 0.1
            ready, _, _ = select.select(list(taps), [], [], max(0.0, pause_s))
            for tap in ready:
                for raw in _frames_from(tap):
                    for other, target in taps.items():
                        if other == tap:
                            continue
                        delay_s = self.rule(_parse(raw, taps[tap], target))
                        if delay_s:
                            heapq.heappush(late, (time.monotonic() + delay_s, next(order), other, raw))
                        elif delay_s is not DROP:
                            _put(other, raw)
            while late and late[0][0] <= time.monotonic():
                _, _, other, raw = heapq.heappop(late)
                _put(other, raw)


@dataclass
class LanNode(Node):
    """A daemon on a host of the LAN, asked over HTTP from within its namespace."""

    host: Host | None = None

    def get(self, path: str) -> httpx2.Response:
        assert self.host is not None
        return self.host.call(super().get, path)

    def post(self, path: str, body: object = None) -> httpx2.Response:
        assert self.host is not None
        return self.host.call(super().post, path, body)


class LanDaemons(Daemons):
    """Daemons as a user starts them: default --host, mDNS, default ports."""

    def __init__(self, folder: Path, models_dir: Path, lan: Lan) -> None:
        super().__init__(folder, models_dir)
        self._lan = lan

    def start_on(self, index: int, name: str, *, flags: Sequence[str] = (), memory: str = "600MiB") -> Node:
        host = self._lan.hosts[index]
        prefix = ("ip", "netns", "exec", host.namespace)

        def make(name: str, data_dir: Path, process: subprocess.Popen[bytes], log_path: Path) -> LanNode:
            return LanNode(name, data_dir, process, log_path, host=host)

        return self.launch(name, ("--memory", memory, "--threads", "1", *flags), prefix=prefix, make=make)

    def start_on_all(self, *, memory: str = "600MiB") -> list[Node]:
        """One on each host: a, b, c and so on."""
        return [self.start_on(index, chr(ord("a") + index), memory=memory) for index in range(len(self._lan.hosts))]


@contextlib.contextmanager
def lan_of_daemons(folder: Path, models_dir: Path, num_hosts: int, **options: bool) -> Iterator[tuple[Lan, LanDaemons]]:
    with Lan(num_hosts, **options) as lan, LanDaemons(folder, models_dir, lan) as daemons:
        yield lan, daemons


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"namespace {namespace} cannot be entered")


def _open_tap(name: str) -> int:
    tap = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


def _frames_from(tap: int) -> Iterator[bytes]:
    for _ in range(64):  # of one card before the next has its turn
        try:
            yield os.read(tap, _MAX_FRAME)
        except OSError:
            return


def _put(tap: int, raw: bytes) -> None:
    with contextlib.suppress(OSError):  # a card that is down loses what comes
        os.write(tap, raw)


def _parse(raw: bytes, source: int, target: int) -> Frame:
    kind = int.from_bytes(raw[12:14])
    if kind == 0x0800:
        protocol, transport = raw[_ETHERNET + 9], _ETHERNET + (raw[_ETHERNET] & 15) * 4
    elif kind == 0x86DD:
        protocol, transport = raw[_ETHERNET + 6], _ETHERNET + 40
    else:
        return Frame(source, target, "arp" if kind == 0x0806 else "other", 0, 0, False, len(raw))
    name = {6: "tcp", 17: "udp"}.get(protocol, "other")
    if name == "other":
        return Frame(source, target, name, 0, 0, False, len(raw))
    source_port, target_port = struct.unpack_from("!HH", raw, transport)
    opens = name == "tcp" and raw[transport + 13] & (_SYN | _ACK) == _SYN
    return Frame(source, target, name, source_port, target_port, opens, len(raw))
