"""Hugging Face's cache of downloads: `models--ORG--NAME` holds blobs, and snapshots of links to them.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

from pathlib import Path

from exo_lite.domain.errors import InvalidModel, InvalidRequest

SNAPSHOTS = "snapshots"
_BLOBS = "blobs"
_MAIN = "refs/main"


def is_hub_root(folder: Path) -> bool:
    """Say whether a folder is one model of the hub's cache."""
    return folder.name.startswith("models--") and (folder / SNAPSHOTS).is_dir()


def hub_snapshot(root: Path) -> Path:
    """The folder of the revision that `main` names, or of the only one there. Raises InvalidModel, InvalidRequest."""
    snapshots = sorted(path for path in (root / SNAPSHOTS).iterdir() if path.is_dir())
    if not snapshots:
        raise InvalidModel(f"{root.name} holds no snapshot: its download did not end, start it again")
    if len(snapshots) == 1:
        return snapshots[0]
    try:
        named = (root / _MAIN).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        named = ""
    for snapshot in snapshots:
        if snapshot.name == named:
            return snapshot
    revisions = ", ".join(path.name for path in snapshots[:8])
    raise InvalidRequest(
        f"{root.name} holds {len(snapshots)} revisions and none is {_MAIN}: give one's folder, {SNAPSHOTS}/REVISION "
        f"of {revisions}",
        param="path",
    )


def hub_source_name(root: Path) -> str:
    """ORG/NAME."""
    return root.name.removeprefix("models--").replace("--", "/")


def check_stays_within(path: Path, folder: Path) -> None:
    """Raise InvalidModel where a file of a model is a link to somewhere else.

    Links within the model's own folder may be followed, and those of a hub's snapshot to the blobs beside it.
    """
    target, home = path.resolve(), folder.resolve()
    if not any(target.is_relative_to(one) for one in (home, *_blobs_of(home))):
        raise InvalidModel(
            f"{path.name} is a link that leaves {folder.name}: put the file itself there, so that nothing else of this "
            "machine is taken in"
        )


def _blobs_of(home: Path) -> list[Path]:
    """The cache's own, of a snapshot or a folder in one."""
    roots = [one.parent for one in (home, *home.parents) if one.name == SNAPSHOTS]
    return [root / _BLOBS for root in roots if is_hub_root(root)]
