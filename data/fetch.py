#!/usr/bin/env python3
"""Fetch the challenge's published FineWeb export: token shards and their tokenizer, checked and resumable.

    python data/fetch.py                         one training shard, the held-out shards, the tokenizer (sp1024)
    python data/fetch.py --train-shards 80       what a record trains on: 8 billion tokens, 16 GB
    python data/fetch.py --check                 hash what is there against data/fetched.json; no network

It writes data/datasets/fineweb10B_sp1024/ and data/tokenizers/, as the challenge's own scripts expect, and
data/fetched.json with the size and sha256 of every file as it first arrived. A file that later differs is an error,
and so is one whose digest is not the one that the server names. An interrupted download goes on where it stopped.

A file appears under its name only when it is whole and checked. Standard library only: it runs before anything is
installed. What it must never do: replace a file that it did not just download, or leave its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

BASE = "https://huggingface.co/datasets/willdepueoai/parameter-golf/resolve/main"
PREFIX = "datasets"  # of the export inside the repository
RECORD = "fetched.json"
PIECE = 1 << 20
DONE, FAILED, USAGE, BROKEN = 0, 1, 2, 3
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FetchError(Exception):
    """One line that says what was wanted, what happened and what to do. `code` is the exit status."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class Gone(Exception):
    """The connection failed in a way that may pass: try again."""


@dataclass
class Answer:
    """What the server says of a file, over all redirects."""

    body: http.client.HTTPResponse
    status: int
    start: int  # of the bytes that follow
    size: int | None  # of the whole file
    tag: str  # names this version of it; "" if the server gives none
    sha256: str  # "" if the server gives none


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows them, and keeps what the first answer says of the file: behind it is a plain store."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise FetchError(f"{req.full_url} leads to {newurl}, which is no web address")
        for name in ("X-Linked-Etag", "X-Linked-Size"):
            if name in headers:
                self.said.setdefault(name, headers[name])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class Fetcher:
    """One export on one server, and the folder that it goes to."""

    base: str
    folder: Path
    tries: int = 6
    wait: float = 1.0  # seconds before the second try; twice as long before each further one
    timeout: float = 60.0
    record_only: bool = False  # nothing will be fetched: wherever it came from
    record: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.base).scheme not in ("http", "https"):
            raise FetchError(f"--url must begin with http:// or https://, not {self.base!r}", USAGE)
        path = self.folder / RECORD
        try:
            said = json.loads(path.read_text()) if path.exists() else {"from": self.base, "files": {}}
            known, origin = said["files"], str(said["from"])
            if not all(
                _SHA256.fullmatch(str(entry["sha256"])) and int(entry["size"]) >= 0 for entry in known.values()
            ):
                raise ValueError("an entry has no size and sha256")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(
                f"{path} cannot be read ({error}); mend it, or move it away to begin anew", BROKEN
            ) from None
        if self.record_only:
            self.base = origin
        elif origin != self.base:
            raise FetchError(f"{self.folder} holds files from {origin}; give another --to for {self.base}", USAGE)
        self.record = known

    # -- one file ------------------------------------------------------------------------------------------

    def get(self, remote: str, local: str) -> str:
        """`remote` as `local` (both with /), unless it is there and as it was. "there", "fetched" or "adopted"."""
        target = self.folder / inside(local)
        if target.is_file():
            return self._there(target, local)
        if target.exists() or target.is_symlink():
            raise FetchError(f"{target} is in the way: it is no plain file; move it away")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                size, digest = self._download(remote, part, local)
                break
            except Gone as error:
                last = error
                if attempt + 1 < self.tries:
                    print(f"{local}: {error}; once more in {self.wait * 2**attempt:g} s", file=sys.stderr)
        else:
            have = part.stat().st_size if part.exists() else 0
            raise FetchError(
                f"{self._url(remote)}: {last}, {self.tries} times; {have} bytes are kept: run it again to go on"
            )
        check_content(part, target.name)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.rename(target)
        self._remember(local, size, digest)
        _tag_of(part).unlink(missing_ok=True)
        return "fetched"

    def _there(self, target: Path, local: str) -> str:
        size, digest = target.stat().st_size, sha256(target)
        if known := self.record.get(local):
            if (size, digest) != (known["size"], known["sha256"]):
                raise FetchError(
                    f"{target} is not what was fetched: expected {known['size']} bytes with sha256 "
                    f"{known['sha256']}, found {size} with {digest}; delete it to fetch it again",
                    BROKEN,
                )
            return "there"
        check_content(target, target.name)
        self._remember(local, size, digest)
        return "adopted"

    def _download(self, remote: str, part: Path, local: str) -> tuple[int, str]:
        """Brings `part` to its end. Raises Gone where another try may help, FetchError where none does."""
        have = part.stat().st_size if part.exists() else 0
        tag_file = _tag_of(part)
        tag = tag_file.read_text() if have and tag_file.exists() else ""
        if not tag:
            have = 0  # of an unknown version: it cannot be gone on with
        answer = self._ask(remote, have, tag)
        with contextlib.closing(answer.body):
            if answer.start != have:
                have = 0  # another version, or a server that knows no ranges: from the beginning
            tag_file.write_text(answer.tag)
            total = hashlib.sha256()
            with part.open("rb+" if have else "wb") as file:
                left = have
                while left:
                    piece = file.read(min(PIECE, left))
                    if not piece:
                        raise Gone("the part kept became shorter")
                    total.update(piece)
                    left -= len(piece)
                file.truncate()
                done = have
                while True:
                    try:
                        piece = answer.body.read(PIECE)
                    except (OSError, http.client.HTTPException) as error:
                        raise Gone(f"the connection broke ({error or type(error).__name__})") from None
                    if not piece:
                        break
                    file.write(piece)
                    total.update(piece)
                    done += len(piece)
                    progress(local, done, answer.size)
        if answer.size is not None and done != answer.size:
            if done > answer.size:
                part.unlink()
            raise Gone(f"the connection ended after {done} of {answer.size} bytes")
        digest = total.hexdigest()
        known = self.record.get(local)
        for whose, expected in (("the server says", answer.sha256), (RECORD, str(known["sha256"]) if known else "")):
            if expected and digest != expected:
                part.unlink()
                tag_file.unlink()
                raise FetchError(
                    f"{self._url(remote)}: {whose} sha256 {expected}, what arrived has {digest}; it was not kept",
                    BROKEN,
                )
        return done, digest

    def _ask(self, remote: str, have: int, tag: str) -> Answer:
        headers = {"User-Agent": "experiment-ledger-fetch", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        redirects = _Redirects()
        request = urllib.request.Request(self._url(remote), headers=headers)
        try:
            body = urllib.request.build_opener(redirects).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the part kept is as long as the file, or longer: begin anew
                return self._ask(remote, 0, "")
            if error.code in (408, 425, 429) or error.code >= 500:
                raise Gone(f"the server answered {error.code}") from None
            hint = "; is the export's name right?" if error.code == 404 else ""
            raise FetchError(f"{self._url(remote)}: the server answered {error.code} {error.reason}{hint}") from None
        except urllib.error.URLError as error:
            raise Gone(f"no connection ({error.reason})") from None
        except (OSError, http.client.HTTPException) as error:
            raise Gone(f"no connection ({error})") from None
        said = body.headers
        length = int(said["Content-Length"]) if (said["Content-Length"] or "").isdigit() else None
        start, size = 0, length
        if body.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", said["Content-Range"] or "")
            if not match:
                body.close()
                raise Gone(f"the server sent a part it does not describe: {said['Content-Range']!r}")
            start, size = int(match[1]), int(match[2])
            if start != have:
                body.close()
                return self._ask(remote, 0, "")
        linked = redirects.said.get("X-Linked-Etag", "").strip('"')
        tag_now = said["ETag"] or said["Last-Modified"] or ""
        return Answer(
            body=body,
            status=body.status,
            start=start,
            size=size,
            tag="" if tag_now.startswith("W/") else tag_now,
            sha256=linked if _SHA256.fullmatch(linked) else "",
        )

    def _url(self, remote: str) -> str:
        return f"{self.base}/{urllib.parse.quote(remote)}"

    def _remember(self, local: str, size: int, digest: str) -> None:
        self.record[local] = {"size": size, "sha256": digest}
        path = self.folder / RECORD
        text = json.dumps({"from": self.base, "files": dict(sorted(self.record.items()))}, indent=1) + "\n"
        making = path.with_name(f".{RECORD}.tmp")
        making.write_text(text)
        making.replace(path)

    # -- an export -----------------------------------------------------------------------------------------

    def files(self, prefix: str, variant: str, train_shards: int) -> Iterator[tuple[str, str]]:
        """(remote, local) of every file of an export, the manifest first, as the manifest lists them."""
        name = f"fineweb10B_{variant}"
        manifest = "manifest.json"
        self.get(f"{prefix}/{manifest}", manifest)
        try:
            listed = json.loads((self.folder / manifest).read_text())
            dataset = next((d for d in listed["datasets"] if d["name"] == name), None)
            if dataset is None:
                there = ", ".join(sorted(str(d["name"]).removeprefix("fineweb10B_") for d in listed["datasets"]))
                raise FetchError(f"the export has no {name}; it has the variants {there}", USAGE)
            most, held_out = int(dataset["stats"]["files_train"]), int(dataset["stats"]["files_val"])
            tokenizer = next(t for t in listed["tokenizers"] if t["name"] == dataset["tokenizer_name"])
            paths = [str(tokenizer[key]) for key in ("model_path", "vocab_path", "path") if tokenizer.get(key)]
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise FetchError(f"{self.folder / manifest} is not a manifest that this knows: {error!r}") from None
        if train_shards > most:
            raise FetchError(f"{name} has {most} training shards, asked for {train_shards}", USAGE)
        for path in paths:
            yield f"{prefix}/{path}", f"tokenizers/{PurePosixPath(path).name}"
        for split, count in (("val", held_out), ("train", train_shards)):
            for number in range(count):
                file = f"datasets/{name}/fineweb_{split}_{number:06d}.bin"
                yield f"{prefix}/{file}", file

    def check(self) -> list[str]:
        """What is wrong with the files on record, a line each."""
        wrong = []
        for local, known in self.record.items():
            path = self.folder / inside(local)
            if not path.is_file():
                wrong.append(f"{path} is missing; run python data/fetch.py to get it again")
            elif (found := (path.stat().st_size, sha256(path))) != (known["size"], known["sha256"]):
                wrong.append(
                    f"{path}: expected {known['size']} bytes with sha256 {known['sha256']}, "
                    f"found {found[0]} with {found[1]}"
                )
        return wrong


def inside(local: str) -> Path:
    """A path that stays in the folder. Raises FetchError for one that would not: names come from a server."""
    path = PurePosixPath(local)
    if path.is_absolute() or not path.parts or any(part in ("..", "") or "\\" in part for part in path.parts):
        raise FetchError(f"the export names a file outside its folder: {local!r}", BROKEN)
    return Path(*path.parts)


def check_content(path: Path, name: str) -> None:
    """A .bin must be a shard as long as its header says, a .json must be JSON. Raises FetchError."""
    if name.endswith(".json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            raise FetchError(f"{path} is no JSON, perhaps a page of the server's; delete it", BROKEN) from None
    if not name.endswith(".bin"):
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1024)
    magic, version, tokens = struct.unpack("<3i", head[:12]) if len(head) == 1024 else (0, 0, 0)
    if (magic, version) != (20240520, 1) or size != 1024 + 2 * tokens:
        raise FetchError(
            f"{path} is no shard of {max(0, size - 1024) / 2:g} tokens: its header says magic {magic}, version "
            f"{version}, {tokens} tokens; delete it and fetch again",
            BROKEN,
        )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def progress(local: str, done: int, size: int | None) -> None:
    if sys.stderr.isatty():
        of = f" of {size / 1e6:.1f}" if size else ""
        print(f"\r{local}: {done / 1e6:.1f}{of} MB ", end="", file=sys.stderr, flush=True)


def _tag_of(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two downloads into one folder would write one file twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".fetch.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FetchError(f"another fetch is writing to {folder}; wait for it") from None
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fetch.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--variant", default="sp1024", help="the tokenizer family (default: sp1024)")
    parser.add_argument("--train-shards", type=int, default=1, metavar="N", help="of 100 million tokens (default: 1)")
    parser.add_argument("--to", type=Path, default=Path(__file__).resolve().parent, metavar="FOLDER", help="(data/)")
    parser.add_argument("--url", default=os.environ.get("LEDGER_DATA_URL", BASE), help="where the export lies")
    parser.add_argument("--prefix", default=PREFIX, help="the export's folder there (default: datasets)")
    parser.add_argument("--check", action="store_true", help="only hash what was fetched against its record")
    asked = parser.parse_args(arguments)
    try:
        if not re.fullmatch(r"byte260|sp\d{1,6}", asked.variant):
            raise FetchError(
                f"--variant is byte260 or sp and a number, for example sp1024; not {asked.variant!r}", USAGE
            )
        if asked.train_shards < 0:
            raise FetchError(f"--train-shards must not be negative, found {asked.train_shards}", USAGE)
        with only_one(asked.to):
            fetcher = Fetcher(asked.url.rstrip("/"), asked.to, record_only=asked.check)
            if asked.check:
                for line in (wrong := fetcher.check()):
                    print(line, file=sys.stderr)
                print(f"{len(fetcher.record) - len(wrong)} of {len(fetcher.record)} files are as they were fetched")
                return BROKEN if wrong else DONE
            for remote, local in fetcher.files(asked.prefix.strip("/"), asked.variant, asked.train_shards):
                how = fetcher.get(remote, local)
                print(f"{how}: {local} ({fetcher.record[local]['size']} bytes)")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        print(f"error: {what}; what had arrived is kept: run it again to go on", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return 130
    return DONE


if __name__ == "__main__":
    sys.exit(main())
