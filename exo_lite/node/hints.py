"""Hints for models that cannot run: a table of causes and ways out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from exo_lite.domain import errors
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.plan import Refusal

SAME_VERSION = "install the same exo-lite version on all nodes"
_FILES = "import the same files on the nodes named, or make their models folder available again"

_FIXES: Mapping[type[ExoLiteError], str] = {
    errors.ModelDoesNotFit: "free memory, add a node or choose --quant",
    errors.OutOfMemory: "free memory on that machine, let its node offer less with --memory, or choose --quant",
    errors.ModelNotFound: _FILES,
    errors.InvalidModel: "the files are damaged or contradict themselves: import the model again",
    errors.UnsupportedModel: "this version cannot run files of that kind: import another build of the model",
    errors.StorageError: "check the models folder on that node: its disk, its mount and its permissions",
    errors.LinkBroken: (
        "allow the ports of exo-lite's nodes through the firewalls between the two, in both directions, "
        "or connect them by another network"
    ),
    errors.LargePacketsLost: (
        "the network between the two carries smaller packets than their MTU: lower the MTU on both, for example with "
        "`ip link set dev eth0 mtu 1280`, or allow ICMP, by which they notice it themselves"
    ),
    errors.ConnectionRefused: (
        "only the daemon can be reached: allow the ports of its workers through the firewall of that node"
    ),
    errors.PortSilent: (
        "a firewall may block that node: allow its workers' ports, 52416-52479/tcp or what its --worker-ports says"
    ),
    errors.NoRoute: (
        "check that both machines are on the same network; --host and --advertise set the address of a node"
    ),
    errors.PortInUse: "give the node more ports with --worker-ports, or stop the programs that use them",
    errors.WorkerCannotStart: (
        "the worker's last output says why: repair the installation on that node, or raise its limits"
    ),
    errors.WorkerFailed: "the worker's last output says why; the log of that node's daemon has more",
    errors.WorkerHangs: "check that machine: it may be overloaded or swapping, or its device hangs",
    errors.DeadlineExceeded: (
        "a node is too slow or overloaded: the status page shows where the time goes; free that node, or stop it"
    ),
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
