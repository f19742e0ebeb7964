"""Where things lie below a ledger's folder, and the file that makes the folder a ledger.

LEDGER.json                          what it is: id, format, hash, origin, created
log/<base >> 16>/<base>.parquet      commits; base = position of the first event       truth
pack/                                compacted ranges of commits                       truth
chunk/<writer>/<n>.parquet           metric points; their digest is in an event        truth
chunkpack/<first>-<last>.parquet     many small chunks as one, see chunkpacks.py       truth
blob/sha256/ab/cdef…                 larger payloads by content                        truth
checkpoint/                          signed heads                                      truth
proj/, tlog/, typed/                 derived: may be deleted at any time
state/                               noted heads, see chain.py
tmp/, spool/, quarantine/            nothing that anybody has been promised
"""

from __future__ import annotations

import functools
import os
import secrets
import time
from datetime import UTC, datetime
from hashlib import sha256

import msgspec

from ledger import canonical, disk
from ledger.errors import Corrupt, NotALedger, Unsupported, UsageError
from ledger.segment import FORMAT

MARK = "LEDGER.json"
SHARD_BITS = 16
FOLDERS = ("log", "pack", "chunk", "blob", "checkpoint", "state", "proj", "tmp")


class Identity(msgspec.Struct, frozen=True):
    """The immutable content of LEDGER.json. `id` is the digest of the rest, and every segment carries it."""

    id: str
    format: int
    hash: str
    origin: str
    created: str
    nonce: str

    def digest(self) -> str:
        """What `id` must be: 32 hex digits of the SHA-256 over the other fields' canonical JSON."""
        rest = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "id"}
        return sha256(canonical.encode(rest)).hexdigest()[:32]


def shard_path(root: str, base: int) -> str:
    return f"{root}/log/{base >> SHARD_BITS:08x}"


def segment_path(root: str, base: int) -> str:
    return f"{root}/log/{base >> SHARD_BITS:08x}/{base:016d}.parquet"


def create(root: str, origin: str | None = None) -> Identity:
    """Make `root` a ledger (it may exist, and be one already). Raises UsageError, NotAppended."""
    root = os.path.abspath(root)
    if os.path.exists(root) and not os.path.isdir(root):
        raise UsageError(f"{root} is a file; a ledger is a folder. Name another path")
    if is_ledger(root):
        return identity(root)
    try:
        root.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{root!a} is not UTF-8 text; a ledger needs a path that every program can write") from None
    try:
        if not os.path.isdir(root):
            disk.make_folder(root)
        # The mark may be there by now: another process makes the same ledger at this moment.
        litter = [name for name in os.listdir(root) if not name.startswith(".") and name not in (*FOLDERS, MARK)]
        if litter:
            raise UsageError(f"{root} is not empty (it holds {min(litter)}); a ledger needs a folder of its own")
        for name in FOLDERS:
            disk.make_folder(os.path.join(root, name))
    except OSError as error:
        raise UsageError(f"cannot make a ledger at {root}: {disk.plain(error)}") from error
    disk.probe(os.path.join(root, "tmp"))
    nonce = secrets.token_hex(16)
    origin = origin or f"experiment-ledger/{nonce[:16]}"
    made = Identity(id="", format=FORMAT, hash="sha256/rfc6962", origin=origin, created=now_text(), nonce=nonce)
    made = msgspec.structs.replace(made, id=made.digest())
    disk.publish(os.path.join(root, "tmp"), os.path.join(root, MARK), canonical.encode(made) + b"\n")
    return identity(root)  # another process may have been first


def identity(root: str) -> Identity:
    """What LEDGER.json says. Raises NotALedger, Unsupported for a newer format, Corrupt."""
    path = os.path.join(root, MARK)
    try:
        with open(path, "rb") as file:
            text = file.read(65536)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.isfile(root):
            raise NotALedger(f"{root} is a file; a ledger is a folder made by `ledger init`") from None
        raise NotALedger(
            f"no ledger at {root}; name one with --ledger or LEDGER_HOME, or create it with `ledger init {root}`"
        ) from None
    except OSError as error:
        raise NotALedger(f"cannot read {path}: {disk.plain(error)}") from None
    try:
        said = msgspec.json.decode(text, type=dict)
        # A newer format may have a newer digest; but if the id is right with our format, a byte was changed.
        if isinstance(said.get("format"), int) and said["format"] > FORMAT and not _ours({**said, "format": FORMAT}):
            raise Unsupported(
                f"{root} has format {said['format']}, this program reads up to {FORMAT}; update experiment-ledger"
            )
        found = msgspec.convert(said, Identity)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path} is damaged: {error}") from None
    if found.id != found.digest():
        raise Corrupt(f"{path} is damaged: its id is not the digest of its content")
    return found


def _ours(said: dict[str, object]) -> bool:
    try:
        found = msgspec.convert(said, Identity)
    except msgspec.ValidationError:
        return False
    return found.id == found.digest()


def is_ledger(root: str) -> bool:
    """Whether a ledger has been made at `root`."""
    return os.path.exists(os.path.join(root, MARK))


def home(path: str | os.PathLike[str] | None = None) -> str:
    """The ledger that is meant: `path`, else LEDGER_HOME, else ./warehouse, as an absolute path."""
    return os.path.abspath(os.fspath(path) if path else os.environ.get("LEDGER_HOME") or "warehouse")


def now_us() -> int:
    """Microseconds since 1970 UTC: when an event was recorded, never what orders it."""
    return time.time_ns() // 1000


def time_text(microseconds: int) -> str:
    """RFC 3339 with microseconds, UTC."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second_text(seconds)}.{rest:06d}Z"


@functools.lru_cache(64)
def _second_text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def now_text() -> str:
    return time_text(now_us())
