"""The static tree, read by a client that knows the specification and nothing of this program's code."""

import base64
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from ledger import checkpoints, tiles
from ledger.merkle import leaf_hash

# ── a client, as c2sp.org/tlog-tiles describes it ──


class Client:
    """Reads a folder as a web server would serve it."""

    def __init__(self, folder, width=256):
        self.folder, self.width = folder, width
        text = self.get("checkpoint").decode().split("\n\n")[0].split("\n")
        self.origin, self.size, self.root = text[0], int(text[1]), base64.b64decode(text[2])

    def get(self, path):
        with open(os.path.join(self.folder, path), "rb") as file:
            return file.read()

    def tile(self, kind, level, n, size=None):
        held = (size or self.size) // self.width**level
        width = min(self.width, held - n * self.width)
        spelled = f"{n:03d}" if n < 1000 else f"x{n // 1000:03d}/{n % 1000:03d}"
        return self.get(f"tile/{kind}/{spelled}" + (f".p/{width}" if width < self.width else ""))

    def hash_at(self, level, index, size):
        """The hash of the full subtree of width**level leaves number `index`."""
        data = self.tile(level, level, index // self.width, size)
        return data[index % self.width * 32 :][:32]

    def subtree(self, start, end, size):
        """MTH(D[start:end]) out of tiles: of the widest hashes that fit."""
        level = 0
        while (span := self.width ** (level + 1)) <= end - start and start % span == 0 and end - start == span:
            level += 1
        if end - start == self.width**level:
            return self.hash_at(level, start // self.width**level, size)
        k = 1 << (end - start - 1).bit_length() - 1
        left, right = self.subtree(start, start + k, size), self.subtree(start + k, end, size)
        return sha256(b"\x01" + left + right).digest()

    def entries(self, size=None):
        size = size or self.size
        for n in range(-(-size // self.width)):
            data = self.tile("entries", 0, n, size)
            while data:
                length = int.from_bytes(data[:2], "big")
                yield data[2 : 2 + length]
                data = data[2 + length :]


@pytest.fixture
def filled(fresh, remark):
    """filled(n) appends events until there are n, signs the head, and writes the tiles."""

    def fill(size):
        if not fresh.head().position:
            checkpoints.sign(fresh)
        if missing := size - fresh.head().position:
            fresh.writer.append([remark(str(n)) for n in range(missing)])
        made = checkpoints.sign(fresh)
        return made, tiles.write(fresh, made)

    fill.log = fresh
    fill.folder = os.path.join(fresh.root, "tlog")
    return fill


def bodies(log):
    return [event.body for event in log.events()]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
def test_a_client_reads_the_root_and_every_event(filled, size):
    made, _ = filled(size)
    client = Client(filled.folder)
    assert (client.origin, client.size, client.root.hex()) == (made.origin, size, made.root)
    assert client.subtree(0, size, size) == client.root
    assert list(client.entries()) == bodies(filled.log)
    assert tiles.problems(filled.log) == []


def test_the_tree_of_70000_of_the_specification(fresh, monkeypatch):
    """273 full tiles and one of 112 on level 0, one full and one of 17 on level 1, one of 1 on level 2."""
    monkeypatch.setattr(tiles, "_bodies", lambda log, start, stop: (b"%d" % n for n in range(start, stop)))
    made = [tile.path for tile in tiles._tiles(fresh, [70_000])]
    level = {name: [path for path in made if path.startswith(f"tile/{name}/")] for name in ("0", "1", "2", "entries")}
    assert {name: len(paths) for name, paths in level.items()} == {"0": 274, "1": 2, "2": 1, "entries": 274}
    assert level["0"][-1] == "tile/0/273.p/112"
    assert level["1"] == ["tile/1/000", "tile/1/001.p/17"]
    assert level["2"] == ["tile/2/000.p/1"]
    assert len(made) == 551


@pytest.mark.parametrize(
    ("n", "spelled"), [(0, "000"), (999, "999"), (1000, "x001/000"), (67, "067"), (1234067, "x001/x234/067")]
)
def test_the_index_of_a_tile_is_spelled_in_threes(n, spelled):
    assert tiles.tile_path(3, n) == f"tile/3/{spelled}"
    assert tiles.tile_path("entries", n, 7) == f"tile/entries/{spelled}.p/7"


@pytest.mark.parametrize("steps", [(3, 4, 5, 15, 16, 17, 64, 65, 100), (2, 63, 66, 256, 257), (100,)])
def test_tiles_grown_in_steps_are_those_made_at_once_and_every_checkpoint_can_be_read(filled, monkeypatch, steps):
    monkeypatch.setattr(tiles, "WIDTH", 4)
    heads = {size: filled(size)[0].root for size in steps}
    assert tiles.problems(filled.log) == []
    client = Client(filled.folder, width=4)
    assert list(client.entries()) == bodies(filled.log)
    # A client with an older head reads the partial tiles of that size, or the full ones in their place.
    monkeypatch.setattr(Client, "tile", with_full_tiles(Client.tile))
    for size, root in heads.items():
        assert client.subtree(0, size, size).hex() == root


def with_full_tiles(tile):
    def get(client, kind, level, n, size=None):
        try:
            return tile(client, kind, level, n, size)
        except FileNotFoundError:
            return client.get(f"tile/{kind}/{n:03d}")

    return get


def test_deleted_tiles_come_back_byte_for_byte(filled, monkeypatch):
    monkeypatch.setattr(tiles, "WIDTH", 4)
    for size in (2, 5, 6, 17, 70, 71):
        filled(size)

    def held():
        return {str(path): path.read_bytes() for path in Path(filled.folder).rglob("*") if path.is_file()}

    before = held()
    shutil.rmtree(filled.folder)
    filled(71)
    assert held() == before


def test_full_tiles_are_never_written_again_and_their_partial_ones_go(filled, monkeypatch):
    monkeypatch.setattr(tiles, "WIDTH", 4)
    filled(6)
    first = os.stat(os.path.join(filled.folder, "tile/0/000")).st_ino
    assert os.path.exists(os.path.join(filled.folder, "tile/0/001.p/2"))
    filled(9)
    assert os.stat(os.path.join(filled.folder, "tile/0/000")).st_ino == first
    assert not os.path.exists(os.path.join(filled.folder, "tile/0/001.p"))
    assert not os.path.exists(os.path.join(filled.folder, "tile/entries/001.p"))


def test_growing_writes_only_what_is_new(filled):
    filled(2000)
    _, written = filled(2001)
    assert written < 10


@pytest.mark.parametrize("spoil", ["checkpoint", "tile/0/002.p/88", "tile/1/000.p/2"])
def test_tiles_whose_edge_is_damaged_are_made_anew(filled, spoil):
    filled(600)
    path = os.path.join(filled.folder, spoil)
    with open(path, "r+b") as file:
        file.write(b"xxxx")
    assert tiles.problems(filled.log)
    filled(700)
    assert tiles.problems(filled.log) == []


def test_every_changed_file_is_found_with_its_first_position(filled):
    filled(600)
    for base, _, names in os.walk(filled.folder):
        for name in names:
            path = Path(base, name)
            data = path.read_bytes()
            for at in {0, len(data) // 2, len(data) - 1}:
                changed = bytearray(data)
                changed[at] ^= 16
                path.write_bytes(changed)
                ((position, text),) = tiles.problems(filled.log)
                assert str(path) in text
                assert name != "001" or position == 256
            path.write_bytes(data)
    assert tiles.problems(filled.log) == []


def test_missing_and_foreign_files_are_found(filled):
    filled(600)
    os.unlink(os.path.join(filled.folder, "tile/0/001"))
    open(os.path.join(filled.folder, "tile/0/777"), "w").close()
    said = tiles.problems(filled.log)
    assert [position for position, _ in said] == [256, None]
    assert "tile/0/777 is not part of the tree" in said[1][1]


def test_without_tiles_there_is_nothing_wrong(fresh):
    assert tiles.problems(fresh) == []


def test_leaves_are_the_hashes_of_the_entries(filled):
    filled(300)
    client = Client(filled.folder)
    hashes = client.tile(0, 0, 0) + client.tile(0, 0, 1)
    assert hashes == b"".join(leaf_hash(body) for body in client.entries())
