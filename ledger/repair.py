"""What may be done to a damaged ledger, and nothing else.

    delete      leftovers in tmp/; files that a pack made superfluous and that no longer say what the
                pack says; chunks of points that no event names and nobody will adopt
    rebuild     what is derived (tlog/)
    quarantine  an unreadable last segment that no pack and no checkpoint covers: its events are lost
    restore     a missing or damaged file, from another copy of the same ledger, when the log names the
                root over it somewhere else: a later commit, a checkpoint, a noted head

What was moved or put back is told by a `ledger.recovered` event; a damaged file is kept in quarantine/.
`plan` touches nothing. It proves its steps beforehand, on a folder of links that looks as the ledger will
look, and when that is not whole there are no steps: damage under a checkpoint or in the middle without a
copy stays as it is, with its positions, and nothing is ever skipped. No writer may run meanwhile.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal, NamedTuple

from ledger import checkpoints, compaction, disk, layout, pack, points, segment, tiles
from ledger.chain import Log
from ledger.errors import Corrupt, LedgerError, NotAppended, UsageError
from ledger.events import LedgerRecovered
from ledger.verify import Problem, Report, verify
from ledger.writer import Draft

GRACE = 3600.0  # seconds: a younger file may belong to a writer that only stands still
_TRUTH = ("log", "pack", "chunk", "chunkpack", "blob", "checkpoint")
_LEFT = re.compile(r"[0-9]+-[0-9a-f]{16}(-link(-nameless)?)?")  # names that disk.py makes in tmp/


class Step(NamedTuple):
    """One thing to do. `path` is below the ledger; `source` the file that takes its place."""

    action: Literal["delete", "rebuild", "quarantine", "restore"]
    path: str
    why: str
    position: int | None = None
    source: str | None = None


class Plan(NamedTuple):
    """What can be done, and the damage that no step heals; with damage left there are no steps for it."""

    root: str
    steps: tuple[Step, ...]
    damage: tuple[Problem, ...]


def plan(path: str, source: str | None = None, grace: float = GRACE) -> Plan:
    """What `apply` would do. `source` is another copy of the same ledger. Raises NotALedger, UsageError."""
    root = layout.home(path)
    report = verify(root, level="derived")
    steps, damage = _superfluous(root, report, grace)
    if damage:
        truth = _restored(root, report, damage, layout.home(source)) if source else []
        truth = truth or _quarantined(root, damage)
        if truth and not (left := _after(root, [*steps, *truth])):
            steps += truth
        else:
            return Plan(root, (), tuple(damage if not truth else [*damage, *left]))
    return Plan(root, tuple(steps), ())


def apply(made: Plan) -> None:
    """Do the steps of a plan. Raises NotAppended when the disk refuses; then plan and apply again."""
    root, told = made.root, []
    try:
        for step in made.steps:
            path = os.path.join(root, step.path)
            if step.action == "delete":
                disk.remove(path)
            elif step.action == "rebuild":
                _rebuild(root, step.path)
            else:
                told.append(_moved(root, step))
    except OSError as error:
        raise NotAppended(f"the repair of {root} stopped: {disk.plain(error)}; begin again") from error
    if told:
        log = Log(root)
        log.writer.append([Draft("ledger/repair", event) for event in told])
        log.close()


# ── what may be deleted or made again ──


def _superfluous(root: str, report: Report, grace: float) -> tuple[list[Step], list[Problem]]:
    """Steps for what nobody reads, and the problems that they do not solve."""
    old = time.time() - grace
    steps = [
        Step("delete", f"tmp/{name}", "a leftover of a writer that was killed")
        for name in _names(f"{root}/tmp")
        if _LEFT.fullmatch(name) and _made_at(f"{root}/tmp/{name}") < old
    ]
    counted = pack.chain(pack.listed(root))
    packed = counted[-1].stop if counted else 0
    kept = {f"pack/{os.path.basename(place.path)}" for place in counted}
    damage = []
    for problem in report.problems:
        copy = problem.path not in kept and (problem.path.startswith("pack/") or _base(problem.path) < packed)
        if problem.path.split("/")[0] == "tlog":
            steps.append(Step("rebuild", "tlog", problem.what, problem.position))
        elif copy and problem.position is not None and os.path.isfile(os.path.join(root, problem.path)):
            steps.append(Step("delete", problem.path, "damaged, and a pack holds its events", problem.position))
        else:
            damage.append(problem)
    if not damage:
        log = Log(root)
        for base, path in compaction.zombies(log):
            found = Step(
                "delete", os.path.relpath(path, root), "the packs hold other events: no reader sees it", base
            )
            if found.path not in [step.path for step in steps]:
                steps.append(found)
        if not any(name.endswith(".ring") for name in _names(f"{root}/spool")):  # else the next opener may adopt it
            for path in points.orphans(log):
                if _made_at(f"{root}/{path}") < old:
                    steps.append(Step("delete", path, "points that no event names: their writer was cut off"))
    once = {step.path if step.action == "rebuild" else str(step): step for step in reversed(steps)}
    return list(reversed(once.values())), damage


def _rebuild(root: str, folder: str) -> None:
    shutil.rmtree(os.path.join(root, folder))
    if (newest := checkpoints.newest(root)) is not None:
        tiles.write(Log(root), newest)


# ── a damaged end without a copy ──


def _quarantined(root: str, damage: list[Problem]) -> list[Step]:
    """Steps that move the last segment away, if it is one that nobody can read and nobody has signed for."""
    listed = [(base, path) for base, path in Log.listed_in(root) if base >= 0]
    base, path = max(listed, default=(-1, ""))
    signed = max((size for size, _ in checkpoints.listed(root)), default=0)
    if base < 0 or signed > base or any(problem.position is None or problem.position < base for problem in damage):
        return []
    try:
        with open(path, "rb") as file:
            segment.decode(file.read(), path, layout.identity(root).id)
        return []
    except OSError as error:
        why = disk.plain(error)
    except Corrupt as error:
        why = str(error).removeprefix(f"{path} ")
    steps = [Step("quarantine", os.path.relpath(path, root), why, base)]
    for note in Log.notes_in(root):
        if note.size > base:
            name = f"state/{note.size:016d}.json"
            steps.append(Step("quarantine", name, f"a head of {note.size} events, with those that are lost", base))
    return steps


# ── a copy ──


def _restored(root: str, report: Report, damage: list[Problem], source: str) -> list[Step]:
    """Steps that take from the copy what is missing or different here."""
    theirs = layout.identity(source)
    own = _identity_of_segments(root)
    if own is not None and theirs.id != own:
        raise UsageError(f"{source} is ledger {theirs.id[:8]}, not a copy of {own[:8]} at {root}")
    positions = [problem.position for problem in damage if problem.position is not None]
    named = {problem.path for problem in damage}
    steps = []
    if layout.MARK in named:
        steps.append(Step("restore", layout.MARK, "damaged", None, os.path.join(source, layout.MARK)))
    moved: list[tuple[int, int]] = []  # ranges of packs that are damaged here and are no packs there
    for place in pack.listed(root):
        name = f"pack/{os.path.basename(place.path)}"
        if name in named and not os.path.exists(os.path.join(source, name)):
            steps.append(Step("quarantine", name, "damaged; the copy holds its events as other files", place.start))
            moved.append((place.start, place.stop))
    for path in _truth(source):
        here, there = os.path.join(root, path), os.path.join(source, path)
        start, stop = _range(path, there)
        if os.path.exists(here):
            wanted = not filecmp.cmp(here, there, shallow=False)
        elif start is None:
            wanted = path in named
        else:
            wanted = (
                any(start <= position < stop for position in positions)
                or any(low <= start < high for low, high in moved)
                or (start >= report.size and report.size in positions)
            )
        if wanted:
            why = "differs from the copy" if os.path.exists(here) else "is missing"
            steps.append(Step("restore", path, why, start, there))
    return steps


def _identity_of_segments(root: str) -> str | None:
    """The ledger's id, from LEDGER.json or from what its segments say."""
    try:
        return layout.identity(root).id
    except Corrupt:
        for _, path in Log.listed_in(root):
            try:
                if (said := segment.peek(path)) is not None:
                    return said.ledger_id
            except LedgerError:
                continue
        return None


def _after(root: str, steps: list[Step]) -> list[Problem]:
    """What would be wrong after these steps, found out on a folder of links to what would lie there."""
    with tempfile.TemporaryDirectory(prefix="ledger-repair-") as folder:
        gone = {step.path for step in steps}
        for path in [layout.MARK, *_truth(root), *(f"state/{name}" for name in _names(f"{root}/state"))]:
            if path not in gone:
                _link(os.path.join(root, path), os.path.join(folder, path))
        for step in steps:
            if step.source is not None:
                _link(step.source, os.path.join(folder, step.path))
        report = verify(folder)
    found = [problem for problem in report.problems if problem.path.split("/")[0] != "tlog"]
    for step in steps:
        if step.source is not None and step.position is not None:
            _, stop = _range(step.path, step.source)
            if stop > report.confirmed and not _same_bodies(os.path.join(root, step.path), step.source):
                found.append(Problem(step.position, step.path, "of the copy is not vouched for by anything here"))
    return found


def _same_bodies(here: str, there: str) -> bool:
    """Whether a damaged segment still names the digest of the same leaves."""
    try:
        said = segment.peek(there)
        with open(here, "rb") as file:
            return said is not None and said.body_sha.encode() in file.read()
    except (OSError, LedgerError):
        return False


# ── files ──


def _moved(root: str, step: Step) -> LedgerRecovered:
    """Do a step that changes what the log is made of; the event that tells of it."""
    path = os.path.join(root, step.path)
    digest = size = kept = None
    if os.path.lexists(path):
        try:
            with open(path, "rb") as file:
                data = file.read()
            digest, size = sha256(data).hexdigest(), len(data)
        except OSError:  # the disk does not give it back
            pass
        folder = os.path.join(root, "quarantine")
        disk.make_folder(folder)
        kept = f"quarantine/{time.time_ns()}-{step.path.replace('/', '-')}"
        os.rename(path, os.path.join(root, kept))
        disk.sync_folder(folder)
        disk.sync_folder(os.path.dirname(path))
    if step.source is not None:
        with open(step.source, "rb") as file:
            data = file.read()
        disk.make_folder(os.path.dirname(path))
        disk.make_folder(os.path.join(root, "tmp"))
        disk.publish(os.path.join(root, "tmp"), path, data)
    return LedgerRecovered(
        action="restored" if step.source is not None else "quarantined",
        path=step.path,
        position=step.position,
        sha256=digest,
        bytes=size,
        kept=kept,
        reason=step.why[:300],
    )


def _truth(root: str) -> Iterator[str]:
    """Every file below the folders of truth, as a path below the ledger."""
    for name in _TRUTH:
        for base, folders, names in os.walk(os.path.join(root, name)):
            folders.sort()
            yield from (os.path.relpath(os.path.join(base, name), root) for name in sorted(names))


def _range(path: str, file: str) -> tuple[int | None, int]:
    """The events that a segment or pack of this name holds, (None, 0) for other files."""
    name = os.path.basename(path)
    if path.startswith("pack/") and re.fullmatch(r"\d{16}-\d{16}\.parquet", name):
        return int(name[:16]), int(name[17:33])
    if (base := _base(path)) < 1 << 62:
        try:
            said = segment.peek(file)
        except LedgerError:
            said = None
        return base, base + (said.n if said else 1)
    return None, 0


def _base(path: str) -> int:
    """The position in a segment's path, a huge one for other files."""
    found = re.fullmatch(r"log/[0-9a-f]{8}/(\d{16})\.parquet", path)
    return int(found[1]) if found else 1 << 62


def _link(target: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(os.path.abspath(target), path)


def _names(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _made_at(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return time.time()
