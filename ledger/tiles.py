"""The tree as static files for other programs, in tlog/: c2sp.org/tlog-tiles, derived from the log.

    tlog/checkpoint                the signed head that the tiles belong to, written last
    tlog/tile/<level>/<n>          256 hashes each: of leaves, above level 0 of full tiles of the level below
    tlog/tile/entries/<n>          the bodies of 256 events, each after its length as a big-endian uint16
    …/<n>.p/<width>                the same, of fewer: the right edge at the size of every checkpoint

A web server that serves the folder is a transparency log that can be read. All of it may be deleted
and made again; the log is never read from here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ledger import checkpoints, disk
from ledger.checkpoints import Checkpoint
from ledger.errors import Corrupt, NotAppended
from ledger.merkle import HASH_BYTES, Frontier, leaf_hash

if TYPE_CHECKING:
    from ledger.chain import Log

WIDTH = 256


class Tile(NamedTuple):
    """A file below tlog/tile: where, its bytes, and the position of the first event under it."""

    path: str
    data: bytes
    position: int


def tile_path(level: int | str, n: int, width: int = WIDTH) -> str:
    """Where a tile lies below tlog/; `level` may be "entries". 1234067 is spelled x001/x234/067."""
    digits = f"{n:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    spelled = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{spelled}" + (f".p/{width}" if width < WIDTH else "")


def write(log: Log, checkpoint: Checkpoint) -> int:
    """Bring tlog/ to a checkpoint of this log; how many files were written. Raises Corrupt, NotAppended."""
    folder = os.path.join(log.root, "tlog")
    start, edge = _standing(log, folder, checkpoint.size)
    written = {os.path.join(folder, "checkpoint")}
    for tile in _tiles(log, _sizes(log, checkpoint.size), start, edge):
        path = os.path.join(folder, tile.path)
        _put(log, path, tile.data)
        shutil.rmtree(f"{path}.p", ignore_errors=True)  # it is full now
        written.add(path)
    _put(log, os.path.join(folder, "checkpoint"), checkpoint.note.encode())
    if not start:  # all was made anew: what else lies there may be of another tree, or damaged
        for base, _, names in os.walk(folder):
            for name in names:
                if os.path.join(base, name) not in written:
                    disk.remove(os.path.join(base, name))
    return len(written) - 1


def problems(log: Log) -> list[tuple[int | None, str]]:
    """Every file in tlog/ that is not what the log gives, with the first position under it."""
    folder = os.path.join(log.root, "tlog")
    if not os.path.isdir(folder):
        return []
    try:
        said = checkpoints.load(os.path.join(folder, "checkpoint"))
        with open(checkpoints.path_of(log.root, said.size), "rb") as file:
            if file.read() != said.note.encode():
                raise Corrupt(f"{said.path} is not the checkpoint of its size")
        if said.size > log.advance():
            raise Corrupt(f"{said.path} is of {said.size} events, the log ends at {log.size}")
    except (Corrupt, OSError) as error:
        what = f"{error.filename}: {disk.plain(error)}" if isinstance(error, OSError) else error
        return [(None, f"{what}; delete tlog/ and make it again with `ledger checkpoint --tiles`")]
    found: list[tuple[int | None, str]] = []
    expected = {"checkpoint"}
    try:
        for tile in _tiles(log, _sizes(log, said.size)):
            expected.add(tile.path)
            path = os.path.join(folder, tile.path)
            try:
                with open(path, "rb") as file:
                    if file.read() != tile.data:
                        found.append((tile.position, f"{path} is not what the log gives"))
            except OSError as error:
                found.append((tile.position, f"{path}: {disk.plain(error)}"))
    except Corrupt:
        return found  # the log itself is damaged, which is told elsewhere
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(base, name), folder)
            # What is left of a partial tile when it is full is nobody's: no client asks for it.
            if path not in expected and os.path.dirname(path).removesuffix(".p") not in expected:
                found.append((None, f"{os.path.join(folder, path)} is not part of the tree"))
    return found


def _sizes(log: Log, size: int) -> list[int]:
    """For these sizes a client may want the right edge."""
    return sorted({size, *(there for there, _ in checkpoints.listed(log.root) if 0 < there < size)})


def _tiles(log: Log, sizes: list[int], start: int = 0, edge: Iterable[Iterable[bytes]] = ()) -> Iterator[Tile]:
    """The tiles of a tree of sizes[-1] events with the edges at all `sizes`; those from `start` on.

    `start` is a multiple of 256, `edge` the hashes at its right edge from level 0 up.
    """
    size = sizes[-1]
    edges = [list(level) for level in edge] or [[]]
    bodies: list[bytes] = []
    at = start
    for body in _bodies(log, start, size):
        bodies.append(body)
        edges[0].append(leaf_hash(body))
        at += 1
        if at % WIDTH == 0:
            yield Tile(tile_path("entries", at // WIDTH - 1), _bundle(bodies), at - WIDTH)
            bodies = []
            level = 0
            while len(edges[level]) == WIDTH:
                span = WIDTH ** (level + 1)
                yield Tile(tile_path(level, at // span - 1), b"".join(edges[level]), at - span)
                if level + 1 == len(edges):
                    edges.append([])
                edges[level + 1].append(_root(edges[level]))
                edges[level] = []
                level += 1
    for level, hashes in enumerate(edges):
        span = WIDTH**level
        n = size // span // WIDTH
        for width in sorted({edge // span % WIDTH for edge in sizes if edge // span // WIDTH == n} - {0}):
            yield Tile(tile_path(level, n, width), b"".join(hashes[:width]), n * span * WIDTH)
            if level == 0:
                yield Tile(tile_path("entries", n, width), _bundle(bodies[:width]), n * WIDTH)


def _bodies(log: Log, start: int, stop: int) -> Iterator[bytes]:
    for _, _, batch in log.batches(start, stop):
        yield from batch.column("body").to_pylist()


def _bundle(bodies: list[bytes]) -> bytes:
    return b"".join(len(body).to_bytes(2, "big") + body for body in bodies)


def _root(hashes: Iterable[bytes]) -> bytes:
    tree = Frontier()
    tree.extend(hashes)
    return tree.root()


def _standing(log: Log, folder: str, limit: int) -> tuple[int, list[list[bytes]]]:
    """How far the full tiles in tlog/ can be built on, and their right edge; (0, []) to begin anew."""
    try:
        said = checkpoints.load(os.path.join(folder, "checkpoint"))
        peaks: list[bytes] = []
        edge: list[list[bytes]] = []
        size = said.size
        while size:
            width = size % WIDTH
            hashes = _read(os.path.join(folder, tile_path(len(edge), size // WIDTH, width))) if width else []
            tree = Frontier()
            tree.extend(hashes)
            peaks = [*tree.peaks, *peaks]
            edge.append(hashes)
            size //= WIDTH
        root = Frontier(said.size, peaks).root().hex()
        if said.size <= limit and root == said.root == log.head_at(said.size).root:
            return said.size // WIDTH * WIDTH, [[], *edge[1:]]
    except (Corrupt, OSError, ValueError):
        pass
    return 0, []


def _read(path: str) -> list[bytes]:
    with open(path, "rb") as file:
        data = file.read()
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


def _put(log: Log, path: str, data: bytes) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise NotAppended(f"{path}: {disk.plain(error)}") from None
    disk.replace(os.path.join(log.root, "tmp"), path, data)
