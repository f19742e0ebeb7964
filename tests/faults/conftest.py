"""A disk that can lose its power, and one that refuses."""

import os
import stat
from pathlib import Path

import pytest

from ledger import disk


class Cut:
    """What would be on the disk if the power failed at one moment.

    `names` maps a folder to its durable names, `seen` to the names that a running process sees; both
    give (kind, inode or path). `data` maps an inode to the bytes that were synced.
    """

    def __init__(self, names, seen, data):
        self.names = {folder: dict(inside) for folder, inside in names.items()}
        self.seen = {folder: dict(inside) for folder, inside in seen.items()}
        self.data = dict(data)

    def survive(self, root, target, kept):
        """Write the surviving files below `root` to `target`.

        kept(durable, seen) decides for each name what of it is left: "durable" is the worst that the
        file system promises, a name that was never synced may have come through all the same, but its
        bytes only if they were synced; else the file is empty.
        """
        os.makedirs(target, exist_ok=True)
        durable, seen = self.names.get(root, {}), self.seen.get(root, {})
        for name in sorted({*durable, *seen}):
            entry = kept(durable.get(name), seen.get(name))
            if entry is None:
                continue
            kind, what = entry
            if kind == "folder":
                self.survive(what, os.path.join(target, name), kept)
            else:
                Path(target, name).write_bytes(self.data.get(what, b""))


class SimulatedDisk:
    """Stands in for the module `os` in ledger/disk.py: makes every call, and models what is durable.

    After fsync of a file its bytes are durable, after fsync of a folder its names; nothing else is.
    `cuts` holds the state after every call.
    """

    def __init__(self, root):
        self.root = str(root)
        self.names, self.seen = {self.root: {}}, {self.root: {}}
        self.data, self.open_files = {}, {}
        self.cuts = []

    def __getattr__(self, name):
        return getattr(os, name)

    def _cut(self):
        self.cuts.append(Cut(self.names, self.seen, self.data))

    def _name(self, path, entry):
        folder, name = os.path.split(path)
        if entry is None:
            self.seen[folder].pop(name, None)
        else:
            self.seen.setdefault(folder, {})[name] = entry

    def open(self, path, flags, mode=0o777):
        file = os.open(path, flags, mode)
        self.open_files[file] = path
        if flags & os.O_CREAT:  # a file made without a name (O_TMPFILE) is in no folder yet
            self._name(path, ("file", os.fstat(file).st_ino))
            self._cut()
        return file

    def close(self, file):
        self.open_files.pop(file, None)
        os.close(file)

    def write(self, file, data):
        done = os.write(file, bytes(data)[:700])  # a short write is no error: the rest is the caller's affair
        self._cut()
        return done

    def fsync(self, file):
        path = self.open_files[file]
        if stat.S_ISDIR(os.fstat(file).st_mode):
            self.names[path] = dict(self.seen.get(path, {}))
        else:
            self.data[os.fstat(file).st_ino] = Path(f"/proc/self/fd/{file}").read_bytes()
        self._cut()

    def link(self, source, target, **how):
        os.link(source, target, **how)
        self._name(target, ("file", os.stat(target).st_ino))
        self._cut()

    def replace(self, source, target):
        os.replace(source, target)
        self._name(source, None)
        self._name(target, ("file", os.stat(target).st_ino))
        self._cut()

    def unlink(self, path):
        os.unlink(path)
        self._name(path, None)
        self._cut()

    def mkdir(self, path, mode=0o777):
        os.mkdir(path, mode)
        self._name(path, ("folder", path))
        self.seen.setdefault(path, {})
        self._cut()


class RefusingDisk:
    """Stands in for `os` in ledger/disk.py: the call `name` fails with `number`, for paths that `where` takes."""

    def __init__(self, name, number, where=lambda path: True, times=1):
        self.name, self.number, self.where, self.times = name, number, where, times
        self.open_files, self.synced, self.opened = {}, [], []

    def __getattr__(self, name):
        return getattr(os, name)

    def _refuse(self, name, path):
        if name == self.name and self.times and self.where(str(path)):
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))

    def open(self, path, flags, mode=0o777):
        self._refuse("open", path)
        file = os.open(path, flags, mode)
        self.open_files[file] = path
        self.opened.append(file)
        return file

    def write(self, file, data):
        self._refuse("write", self.open_files[file])
        return os.write(file, data)

    def fsync(self, file):
        path = self.open_files.get(file) or os.readlink(f"/proc/self/fd/{file}")  # opened before we came
        # Which open file it was: files without a name share the path of their folder, and numbers come again.
        self.synced.append((path, max((n for n, one in enumerate(self.opened) if one == file), default=-1)))
        self._refuse("fsync folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "fsync file", path)

    def link(self, source, target, **how):
        self._refuse("link", target)
        os.link(source, target, **how)

    def mkdir(self, path, mode=0o777):
        self._refuse("mkdir", path)
        os.mkdir(path, mode)


@pytest.fixture
def on_disk(monkeypatch):
    """on_disk(stand_in) puts a disk under the log for as long as the block lasts."""

    def put(stand_in):
        context = monkeypatch.context()

        class Block:
            def __enter__(self):
                patch = context.__enter__()
                patch.setattr(disk, "os", stand_in)
                patch.setattr(disk, "_flush", stand_in.fsync)
                return patch

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Block()

    return put


@pytest.fixture
def simulated_disk():
    return SimulatedDisk


@pytest.fixture
def refusing_disk():
    return RefusingDisk


@pytest.fixture
def without_sync(monkeypatch):
    """For the checks after a fault, which would only wait for the disk."""
    monkeypatch.setattr(disk, "_flush", lambda file: None)
