"""Record folders of the modded-nanogpt speedrun: a README that states losses, times and a p-value, and logs.

What is measured there is the time to a validation loss, in nats: val_bpb stays empty. Each log is one run; of its
`val_loss` lines the last counts. The README's lists of losses and times are runs as it tells them, and what it says
of them (n, mean, std, p) is kept as a claim, with a flag where its mean is not that of its own list.
"""

from __future__ import annotations

import math
import re
from hashlib import sha256
from pathlib import Path

from ledger.errors import UsageError
from ledger.records import ReadFlag, ReadSeed, RecordExtracted, SourceFile
from runners.importers.items import File, Found, claim, claims, read_file
from runners.recording import one_line
from runners.records import grown

NAME = "import/modded-nanogpt/1"
_FIGURE = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
_VALIDATED = re.compile(
    rf"step:(\d+)/\d+ val_loss:{_FIGURE}(?: train_time:{_FIGURE}(ms|s))?(?: step_avg:{_FIGURE}ms)?"
)
_LIST = re.compile(r"\b(\w*loss\w*|\w*times?)\b[^\n=\[]{0,40}=?\s*\[([\d.,\s]+)\]", re.I)
_P = re.compile(rf"\bp(?:[- ]?val(?:ue)?)?\s*[=:]\s*{_FIGURE}", re.I)
_MEAN = re.compile(rf"loss[^\n]{{0,80}}?\(std\s*=\s*{_FIGURE},\s*mean\s*=\s*{_FIGURE}", re.I)
_TENSORS = re.compile(rf"loss[^\n]{{0,20}}?\(tensor\({_FIGURE}\),\s*tensor\({_FIGURE}\)\)", re.I)


def read(path: Path) -> Found:
    """One record folder, or a folder of them. Raises UsageError when there is none."""
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder; name a record's folder or the one that holds them")
    folders = (
        [path] if _is_record(path) else sorted(one for one in path.rglob("*") if one.is_dir() and _is_record(one))
    )
    if not folders:
        raise UsageError(f"{path} holds no record: no folder with a README.md or a log with val_loss lines")
    found = Found([], [], [], [])
    for folder in folders:
        try:
            _record(folder, found)
        except UsageError as error:
            found.failed.append((folder.name, str(error)))
    return found


def _is_record(folder: Path) -> bool:
    return bool(_logs(folder)) and not folder.is_symlink()


def _logs(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.suffix in (".txt", ".log") and _is_log(one))
    except OSError:
        return []


def _is_log(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.name != "requirements.txt"


def _record(folder: Path, found: Found) -> None:
    inside = folder.resolve()
    readme = next((one for one in sorted(folder.iterdir()) if one.name.lower() == "readme.md"), None)
    seeds: list[ReadSeed] = []
    files: list[File] = []
    flags: list[ReadFlag] = []
    for path in _logs(folder):
        file = read_file(path)
        files.append(file)
        if (seed := _of_log(file)) is not None:
            seeds.append(seed)
    title: str | None = None
    told: dict[str, float | str] = {}
    if readme is not None:
        file = read_file(readme)
        files.append(file)
        text = file.data.decode("utf-8", "replace")
        title = next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")), None)
        listed, told, flags = _of_readme(text)
        seeds += listed
    if not seeds:
        raise UsageError("neither its logs nor its README tell a val_loss")
    dated = re.match(r"(\d{4}-\d{2}-\d{2})", inside.name)
    sources = tuple(SourceFile(one.name, one.digest.sha256, one.digest.bytes) for one in files)
    digest = "".join(f"{one.sha256} {one.path}\n" for one in sources)
    head = RecordExtracted(
        record=f"{inside.parent.name}/{inside.name}",
        track=inside.parent.name,
        repository=None,
        parser=NAME,
        vocabulary=sha256(b"").hexdigest(),
        source_digest=sha256(digest.encode()).hexdigest(),
        sources=sources[:150],  # the digest is of all
        part=1,
        parts=1,
        name=one_line(title)[:200] if title else inside.name,
        date=dated[1] if dated else None,
    )
    found.readings.append(grown([head], seeds=tuple(seeds), flags=tuple(flags)))
    if told:
        file = files[-1]
        made = claim(NAME, "claim", head.record, told, file, str(told.get("evidence", "")))
        found.items.extend(claims(NAME, file, [made], [head.record, told]))
        found.kept.append((f"{inside.name}/{file.name}", file.data))


def _of_log(file: File) -> ReadSeed | None:
    """The last validation of a log. The programs that these logs begin with print nothing of the kind."""
    last = None
    for number, line in enumerate(file.data.decode("utf-8", "replace").splitlines(), 1):
        if (match := _VALIDATED.match(line)) is not None:
            last = (number, match)
    if last is None:
        return None
    number, match = last
    seconds = None if match[3] is None else float(match[3]) / (1000 if match[4] == "ms" else 1)
    return ReadSeed(
        seed=None,
        val_bpb=None,
        val_loss=float(match[2]),
        steps=int(match[1]),
        wall_s=seconds,
        step_ms=None if match[5] is None else float(match[5]),
        source="log",
        evidence=f"{file.name}:{number}",
    )


def _of_readme(text: str) -> tuple[list[ReadSeed], dict[str, float | str], list[ReadFlag]]:
    """Runs that it lists, what it claims of them, and where the two differ. Of several lists the first is its own."""
    lists: dict[str, tuple[list[float], int]] = {}
    for match in _LIST.finditer(text):
        kind = "loss" if "loss" in match[1].lower() else "time"
        figures = [float(one) for one in re.findall(r"\d+(?:\.\d+)?", match[2])]
        if len(figures) > 1:
            lists.setdefault(kind, (figures, text.count("\n", 0, match.start()) + 1))
    losses, line = lists.get("loss", ([], 0))
    times, _ = lists.get("time", ([], 0))
    seeds = [
        ReadSeed(
            seed=None,
            val_bpb=None,
            val_loss=loss,
            wall_s=times[n] if len(times) == len(losses) else None,
            source="readme",
            evidence=f"README.md:{line}",
        )
        for n, loss in enumerate(losses)
    ]
    told: dict[str, float | str] = {}
    flags: list[ReadFlag] = []
    if losses:
        told |= {"n": len(losses), "evidence": f"README.md:{line}"}
    if (level := _P.search(text)) is not None:
        told |= {"p": float(level[1]), "p_evidence": _place(text, level)}
    if (mean := _MEAN.search(text) or _TENSORS.search(text)) is not None:
        where = _place(text, mean)
        told |= {"std": float(mean[1]), "mean": float(mean[2]), "mean_evidence": where}
        if losses and abs(math.fsum(losses) / len(losses) - float(mean[2])) > 0.00011:
            said = (f"{mean[2]} ({where})", f"{math.fsum(losses) / len(losses):.6g} of its list (README.md:{line})")
            flags.append(ReadFlag(field="mean", said=said, reason="the mean is not that of the losses it lists"))
    return seeds, told, flags


def _place(text: str, match: re.Match[str]) -> str:
    return f"README.md:{text.count(chr(10), 0, match.start()) + 1}"
