"""`ledger doctor`: is this machine, this folder and this ledger fit, and what to do where not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys

import click

from commands.common import Asked, print_json, shared
from ledger import disk, layout
from ledger.chain import Log
from ledger.errors import LedgerError

_PARTS = {
    "torch": "the built-in trainer (pip install 'experiment-ledger[torch]')",
    "mlx": "the built-in trainer on Apple Silicon (pip install 'experiment-ledger[mlx]')",
    "sentencepiece": "the built-in trainer's tokenizer (comes with either of the two)",
    "matplotlib": "plots",
    "polars": "frames in Python",
}
_LOW_SPACE = 1 << 30


@click.command("doctor")
@shared()
def command(asked: Asked) -> int:
    """Check Python, packages, the file system and the ledger; exit code 1 when something needs care."""
    root = layout.home(asked.ledger)
    checks = [*_machine(), *_folder(root), *_ledger(root)]
    if asked.json:
        print_json([{"check": name, "ok": ok, "found": found} for name, ok, found in checks])
    else:
        for name, ok, found in checks:
            print(f"{'ok  ' if ok else 'CARE' if ok is False else 'note'}  {name:<13} {found}")
    return 1 if any(ok is False for _, ok, _ in checks) else 0


Check = tuple[str, bool | None, str]


def _machine() -> list[Check]:
    version = platform.python_version()
    found: list[Check] = [("python", sys.version_info >= (3, 11), f"{version} ({platform.system()})")]
    for name in ("duckdb", "pyarrow", "msgspec", "scipy"):
        found.append((name, True, importlib.metadata.version(name)))
    for name, what in _PARTS.items():
        try:
            found.append((name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, None, f"not installed; needed for {what}"))
    return found


def _folder(root: str) -> list[Check]:
    folder = root
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    found: list[Check] = [("free space", free > _LOW_SPACE, f"{free / 2**30:.1f} GiB in {folder}")]
    inside = os.path.join(root, "tmp") if os.path.isdir(os.path.join(root, "tmp")) else folder
    try:
        disk.probe(inside)
        found.append(("file system", True, "exclusive links and folder sync work"))
    except LedgerError as error:
        found.append(("file system", False, str(error)))
    return found


def _ledger(root: str) -> list[Check]:
    try:
        log = Log(root)
        head = log.head()
        found: list[Check] = [("ledger", True, f"{root}, {head.position} events, head {head.root[:16]}")]
    except LedgerError as error:
        return [("ledger", False, str(error))]
    inside = os.path.join(root, "tmp")
    litter = [name for name in os.listdir(inside) if not name.endswith(".lock")] if os.path.isdir(inside) else []
    if litter:
        found.append(
            ("leftovers", None, f"{len(litter)} files in tmp/ of writers that were killed; they may be deleted")
        )
    return found
