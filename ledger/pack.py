"""A pack: a contiguous range of the log as one Parquet file, instead of its many commits.

pack/<start>-<stop>.parquet holds the events [start, stop): the columns of a segment, bodies byte for
byte, and `position`; sorted by it, in row groups that can be read one by one. The footer's key-values are

    ledger.format, ledger.id, ledger.n, ledger.body_sha, ledger.seal    as in a segment
    ledger.p0, ledger.p1   start and stop
    ledger.commits         how many commits the first `stop` events came in
    ledger.peaks           base64 of the Merkle peaks over the first `stop` events, largest first
    ledger.root            the root there, in hex
    ledger.groups          base64 of 44 bytes a row group, little-endian: rows (4), the offset at which
                           its bytes end (8), their SHA-256 (32); the first begins at offset 4
    ledger.tail            SHA-256 of the bytes after the last group, with the digits of `tail` and
                           `seal` as zeros: so a group can be trusted without reading the others

Nothing here decides what is packed or removed (compaction.py), or which of two packs counts (chain.py).
"""

from __future__ import annotations

import base64
import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger import segment
from ledger.errors import Corrupt, Unsupported
from ledger.merkle import HASH_BYTES, Frontier

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 8192
GROUP_BYTES = 4 << 20  # of bodies
_GROUP = struct.Struct("<IQ32s")
_TAIL = b"ledger.tail\x18\x40"  # as segment._SEAL


class Place(NamedTuple):
    """The name of a pack: it holds the events [start, stop)."""

    start: int
    stop: int
    path: str


class Footer(NamedTuple):
    """What a pack says of itself. `groups` are (rows, end offset, SHA-256)."""

    ledger_id: str
    n: int
    start: int
    stop: int
    commits: int
    peaks: tuple[bytes, ...]
    root: str
    groups: tuple[tuple[int, int, bytes], ...]
    body_sha: str
    seal: str

    def tree(self) -> Frontier:
        """The Merkle tree over the first `stop` events."""
        return Frontier(self.stop, self.peaks)


# ── names ──


def path_of(root: str, start: int, stop: int) -> str:
    return f"{root}/pack/{start:016d}-{stop:016d}.parquet"


def listed(root: str) -> list[Place]:
    """Every pack that lies there now, by start, the longer first. Other files are passed over."""
    try:
        return places(root, os.listdir(f"{root}/pack"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def places(root: str, names: Iterable[str]) -> list[Place]:
    """What these names in pack/ say, by start, the longer first."""
    found = []
    for name in names:
        start, stop = name[:16], name[17:33]
        if len(name) == 41 and start.isdecimal() and stop.isdecimal():
            place = Place(int(start), int(stop), path_of(root, int(start), int(stop)))
            if place.path.endswith(f"/{name}") and place.start < place.stop:
                found.append(place)
    return sorted(found, key=lambda place: (place.start, -place.stop))


def chain(places: Iterable[Place]) -> list[Place]:
    """The fewest of these packs that cover the log from 0 on, without a gap; the rest is superseded."""
    found: list[Place] = []
    best: Place | None = None
    end = 0
    for place in sorted(places):
        if place.start > end:
            if best is None or best.stop <= end or place.start > best.stop:
                break
            found.append(best)
            end = best.stop
        if best is None or place.stop > best.stop:
            best = place
    if best is not None and best.stop > end:
        found.append(best)
    return found


# ── writing ──


def encode(
    groups: Iterable[pa.RecordBatch], ledger_id: str, start: int, tree: Frontier, commits: int
) -> tuple[bytes, Footer]:
    """The bytes of a pack of these rows (columns as a segment's), one row group a batch.

    `tree` is over the first `start` events and is extended; `commits` counts those below the stop.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    ends: list[tuple[int, int, bytes]] = []
    leaves_sha = sha256()
    plain = [name for name in schema().names if name != "body"]
    with pq.ParquetWriter(
        out,
        schema(),
        compression="zstd",
        use_dictionary=["type", "stream", "writer", "actor", "correlation_id"],
        column_encoding=dict.fromkeys(("writer_seq", "recorded_at", "position"), "DELTA_BINARY_PACKED"),
        write_statistics=plain,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        for batch in groups:
            at = tree.size
            leaves = segment.leaves_of(batch)
            tree.extend(leaves)
            leaves_sha.update(b"".join(leaves))
            positions = segment.column(range(at, tree.size), pa.int64())
            begin = ends[-1][1] if ends else 4
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, positions], schema=schema()), len(leaves))
            with out.getbuffer() as written:
                ends.append((len(leaves), out.tell(), sha256(written[begin : out.tell()]).digest()))
        writer.add_key_value_metadata(
            {
                "ledger.format": str(segment.FORMAT),
                "ledger.id": ledger_id,
                "ledger.n": str(tree.size - start),
                "ledger.p0": str(start),
                "ledger.p1": str(tree.size),
                "ledger.commits": str(commits),
                "ledger.peaks": base64.b64encode(b"".join(tree.peaks)).decode(),
                "ledger.root": tree.root().hex(),
                "ledger.groups": base64.b64encode(b"".join(_GROUP.pack(*end) for end in ends)).decode(),
                "ledger.body_sha": leaves_sha.hexdigest(),
                "ledger.tail": segment.BLANK.decode(),
                "ledger.seal": segment.BLANK.decode(),
            }
        )
    with out.getbuffer() as data:
        end = ends[-1][1]
        tail = bytearray(data[end:])
        _fill(tail, _TAIL, sha256(tail).hexdigest())
        whole = sha256(data[:end])
        whole.update(tail)
        _fill(tail, segment._SEAL, whole.hexdigest())
        data[end:] = tail
    return out.getvalue(), footer(bytes(tail), end, "the new pack")


def schema() -> pa.Schema:
    """The Arrow schema of a pack."""
    import pyarrow as pa

    return segment.schema().append(pa.field("position", pa.int64(), False))


def _fill(data: bytearray, key: bytes, digits: str) -> None:
    at = data.rindex(key) + len(key)
    data[at : at + 64] = digits.encode()


# ── reading ──


class Pack:
    """An open pack, read group by group; no row of a group whose bytes are not those that were written.

    It stays readable when its name is removed meanwhile.
    """

    def __init__(self, path: str, ledger_id: str | None = None) -> None:
        """Raises FileNotFoundError, Corrupt, and Unsupported for a newer format."""
        self.path = path
        self._meta: Any = None
        self._file = -1
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._tail, self._end = _tail(self._file, path)
            self.footer = footer(self._tail, self._end, path)
            if ledger_id is not None and self.footer.ledger_id != ledger_id:
                raise Corrupt(f"{path} belongs to ledger {self.footer.ledger_id}, not to {ledger_id}")
            said = self.footer
            if any((said.start, said.stop) != place[:2] for place in places("", [os.path.basename(path)])):
                raise Corrupt(f"{path} has the footer of the events {said.start} to {said.stop}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bytes(self) -> bytes:
        """All of the file."""
        return _pread(self._file, 0, os.fstat(self._file).st_size)

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """(number, first position, position after the last) of each row group."""
        position = self.footer.start
        for number, (rows, _, _) in enumerate(self.footer.groups):
            yield number, position, position + rows
            position += rows

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The rows of one group, with the columns of a segment or some of these. Raises Corrupt."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, end, digest = self.footer.groups[number]
        begin = self.footer.groups[number - 1][1] if number else 4
        position = self.footer.start + sum(group[0] for group in self.footer.groups[:number])
        try:
            data = _pread(self._file, begin, end)
            if sha256(data).digest() != digest:
                raise Corrupt(f"{self.path} is not what was written: a digest of its rows does not hold", position)
            if self._meta is None:
                self._meta = pq.read_metadata(pa.BufferReader(self._tail))
            names = list(columns) if columns is not None else schema().names
            file = pq.ParquetFile(_window(data, begin), metadata=self._meta, pre_buffer=False)
            kinds = pa.schema([schema().field(name) for name in names])
            table = file.read_row_group(number, columns=names, use_threads=False)
            batch = table.select(names).cast(kinds).combine_chunks().to_batches()[0]
        except (pa.ArrowException, OSError, IndexError, ValueError, KeyError) as error:
            raise Corrupt(f"{self.path} cannot be read as a pack: {error}", position) from None
        if batch.num_rows != rows:
            raise Corrupt(f"{self.path} says {rows} rows in a group and holds {batch.num_rows}", position)
        if columns is not None:
            return batch
        if not np.array_equal(batch.column("position").to_numpy(False), np.arange(position, position + rows)):
            raise Corrupt(f"{self.path} numbers its events otherwise than its name says", position)
        return batch.select(segment.schema().names)


def peek(path: str, ledger_id: str | None = None) -> Footer:
    """What a pack says of itself, its footer checked, its rows not. Raises as Pack does."""
    with Pack(path, ledger_id) as opened:
        return opened.footer


def read(path: str, ledger_id: str | None = None) -> tuple[Footer, Iterator[tuple[int, pa.RecordBatch]]]:
    """A pack whose every byte is checked: its footer, and its rows as (first position, batch).

    Raises FileNotFoundError, Corrupt, Unsupported. The rows' leaves are the caller's to check.
    """
    try:
        opened = Pack(path, ledger_id)
    except Unsupported:
        with open(path, "rb") as file:
            segment.check_seal(file.read(), path)
        raise
    try:
        data = opened.bytes()
        if data[:4] != b"PAR1" or not segment.seal_holds(data):
            raise Corrupt(f"{path} is not what was written: its seal does not hold", opened.footer.start)
    except BaseException:
        opened.close()
        raise
    return opened.footer, _rows(opened)


def _rows(opened: Pack) -> Iterator[tuple[int, pa.RecordBatch]]:
    with opened:
        for number, first, _ in opened.groups():
            yield first, opened.read(number)


def _tail(file: int, path: str) -> tuple[bytes, int]:
    """What follows the last row group, and where it begins."""
    size = os.fstat(file).st_size
    last = os.pread(file, 8, max(0, size - 8))
    begin = size - 8 - int.from_bytes(last[:4], "little")
    if last[4:] != b"PAR1" or begin < 4:
        raise Corrupt(f"{path} does not end like a Parquet file: truncated or overwritten")
    return _pread(file, begin, size), begin


def _pread(file: int, begin: int, end: int) -> bytes:
    data = os.pread(file, end - begin, begin)
    while len(data) < end - begin and (more := os.pread(file, end - begin - len(data), begin + len(data))):
        data += more
    return data


def footer(tail: bytes, begin: int, path: str) -> Footer:
    """The footer from what follows the row groups, which end at offset `begin`. Raises Corrupt, Unsupported."""
    form = segment._value(tail, "ledger.format")
    if form is not None and form != str(segment.FORMAT).encode():
        raise Unsupported(f"{path} has format {form.decode(errors='replace')}, this program reads {segment.FORMAT}")
    blank = bytearray(tail)
    try:
        digest = segment._need(tail, "ledger.tail")
        _fill(blank, _TAIL, segment.BLANK.decode())
        _fill(blank, segment._SEAL, segment.BLANK.decode())
        if sha256(blank).hexdigest().encode() != digest:
            raise ValueError("digest")
        peaks = base64.b64decode(segment._need(tail, "ledger.peaks"), validate=True)
        said = Footer(
            ledger_id=segment._need(tail, "ledger.id").decode(),
            n=int(segment._need(tail, "ledger.n")),
            start=int(segment._need(tail, "ledger.p0")),
            stop=int(segment._need(tail, "ledger.p1")),
            commits=int(segment._need(tail, "ledger.commits")),
            peaks=tuple(peaks[i : i + HASH_BYTES] for i in range(0, len(peaks), HASH_BYTES)),
            root=segment._need(tail, "ledger.root").decode(),
            groups=tuple(_GROUP.iter_unpack(base64.b64decode(segment._need(tail, "ledger.groups"), validate=True))),
            body_sha=segment._need(tail, "ledger.body_sha").decode(),
            seal=segment._need(tail, "ledger.seal").decode(),
        )
        whole = said.start + said.n == said.stop and sum(group[0] for group in said.groups) == said.n > 0
        if not whole or said.groups[-1][1] != begin or said.tree().root().hex() != said.root:
            raise ValueError("it contradicts itself")
    except (ValueError, UnicodeDecodeError, struct.error):
        raise Corrupt(f"{path} is not a pack of a ledger, or damaged: its footer does not hold") from None
    return said


def _window(data: bytes, offset: int) -> Any:
    """Bytes of a file, at their place in it, for Arrow to read from: it sees those that were checked."""
    import pyarrow as pa

    class Window(io.BytesIO):
        def seek(self, to: int, whence: int = 0) -> int:
            return offset + (super().seek(max(0, to - offset)) if whence == 0 else super().seek(to, whence))

        def tell(self) -> int:
            return offset + super().tell()

    return pa.PythonFile(Window(data), mode="r")
