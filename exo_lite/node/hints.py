"""Hints for models that cannot run: a table of causes and ways out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from exo_lite.domain import errors
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.plan import Refusal

SAME_VERSION = "install the same exo-lite version on all nodes"
_FILES = "import the very same files on the nodes named, or make their models folder available again"

_FIXES: Mapping[type[ExoLiteError], str] = {
    errors.ModelDoesNotFit: "free memory, add a node or choose --quant",
    errors.OutOfMemory: "free memory on that machine, let its node offer less with --memory, or choose --quant",
    errors.ModelNotFound: _FILES,
    errors.InvalidModel: "the files are damaged or contradict themselves: import the model again",
    errors.UnsupportedModel: "this version cannot run files of that kind: import another build of the model",
    errors.StorageError: "look at the models folder on that node: its disk, its mount and its permissions",
    errors.LinkBroken: (
        "let the ports of exo-lite's nodes through the firewalls between the two, in both directions, "
        "or join them by a network on which they reach each other"
    ),
    errors.LargePacketsLost: (
        "the way between the two carries less than their MTU says: set it to what it carries on both, such as "
        "`ip link set dev eth0 mtu 1280`, or let ICMP through so that they find it out"
    ),
    errors.ConnectionRefused: (
        "the daemon is reached and its worker's port is not: let the workers' ports through the firewall of that node"
    ),
    errors.PortSilent: (
        "a firewall there? Let the workers' ports of that node in: 52416-52479/tcp, or what its --worker-ports says"
    ),
    errors.NoRoute: "see that both machines are on the same network; --host and --advertise set where one is reached",
    errors.PortInUse: "let the node have more free ports for its workers, or end what takes them",
    errors.WorkerCannotStart: (
        "its last words say why: mend the installation on that node, or lift the limits that it runs under"
    ),
    errors.WorkerFailed: "the worker's last words say why; the log of that node's daemon has the rest",
    errors.WorkerHangs: "look at that machine: it is overloaded, swaps, or its device hangs",
    errors.DeadlineExceeded: "a node is too slow or overloaded: see on the page where the time goes, or leave it out",
    errors.IncompatibleVersion: SAME_VERSION,
    errors.MalformedMessage: SAME_VERSION,
    errors.NodeLost: "start the nodes that are lost again with `exo-lite node`, add another one, or choose --quant",
}
DEFAULT_FIX = "see the log of the nodes named"


def fix_for(cause: str | None) -> str:
    """The way out of a failure whose ExoLiteError.code this is: that of the nearest class in the tree of errors."""
    failed_with = errors.error_class(cause or "")
    return next((_FIXES[cls] for cls in failed_with.__mro__ if cls in _FIXES), DEFAULT_FIX)


def cause_of(refusal: Refusal) -> str:
    """Return the cause for a model that does not fit."""
    if refusal.broken_links:
        return errors.LinkBroken.code
    return errors.ModelNotFound.code if refusal.lacks_files else errors.ModelDoesNotFit.code
