"""The fetcher against a server on this machine that breaks off, lies, changes and redirects."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "fetch.py"
_spec = importlib.util.spec_from_file_location("fetch", SCRIPT)
fetch = importlib.util.module_from_spec(_spec)
sys.modules["fetch"] = fetch  # dataclasses look their module up
_spec.loader.exec_module(fetch)

NAME = "datasets/fineweb10B_sp1024"


def a_shard(seed, tokens=40_000):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, tokens
    return header.tobytes() + np.random.default_rng(seed).integers(0, 1024, tokens).astype("<u2").tobytes()


class Server(ThreadingHTTPServer):
    """Serves `files` with ranges and tags; `breaks` says after how many bytes each next answer ends."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.asked = {}, [], []
        self.answers = {}  # path -> status instead
        self.linked = {}  # path -> sha256 that a redirect names
        self.knows_ranges = self.gives_tags = True
        self.base = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        server.asked.append((path, self.headers.get("Range")))
        if status := server.answers.get(path):
            status = status.pop(0) if isinstance(status, list) and status else status
            if status:
                self.send_error(status)
                return
        if path in server.linked:
            self.send_response(302)
            self.send_header("Location", f"{server.base}/store/{path}")
            self.send_header("X-Linked-Etag", f'"{server.linked[path]}"')
            self.end_headers()
            return
        data = server.files.get(path.removeprefix("store/"))
        if data is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        start, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted and server.knows_ranges and self.headers.get("If-Range") == tag:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(status)
        if server.gives_tags:
            self.send_header("ETag", tag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks and (most := server.breaks.pop(0)) is not None:
            body = body[:most]
        self.wfile.write(body)


@pytest.fixture
def server():
    it = Server()
    manifest = {
        "datasets": [
            {"name": "fineweb10B_sp1024", "tokenizer_name": "t", "stats": {"files_train": 3, "files_val": 1}},
            {"name": "fineweb10B_byte260", "tokenizer_name": "b", "stats": {"files_train": 3, "files_val": 1}},
        ],
        "tokenizers": [{"name": "t", "model_path": "tokenizers/f.model", "vocab_path": "tokenizers/f.vocab"}],
    }
    it.files = {
        "datasets/manifest.json": json.dumps(manifest).encode(),
        "datasets/tokenizers/f.model": b"model" * 100,
        "datasets/tokenizers/f.vocab": b"vocab" * 100,
        f"datasets/{NAME}/fineweb_val_000000.bin": a_shard(9),
        **{f"datasets/{NAME}/fineweb_train_{i:06d}.bin": a_shard(i) for i in range(3)},
    }
    thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield it
    it.shutdown()
    thread.join()
    it.server_close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fetch.Fetcher, "wait", 0.0)
    original = fetch.Fetcher.__init__
    monkeypatch.setattr(fetch.Fetcher, "__init__", lambda *a, **k: original(*a, **{"wait": 0.0, "tries": 4, **k}))


pytestmark = pytest.mark.usefixtures("quick")


def run(server, folder, *arguments):
    return fetch.main(["--to", str(folder), "--url", server.base, *arguments])


def shard_of(folder, number=0):
    return folder / NAME / f"fineweb_train_{number:06d}.bin"


def test_an_export_arrives_whole_in_the_challenges_layout_with_sizes_and_digests(server, tmp_path, capsys):
    assert run(server, tmp_path, "--train-shards", "2") == 0
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} - {".fetch.lock"}
    expected = {f"{NAME}/fineweb_{n}.bin" for n in ("val_000000", "train_000000", "train_000001")}
    expected |= {"tokenizers/f.model", "tokenizers/f.vocab", "manifest.json"}
    assert there == expected | {"fetched.json"}
    record = json.loads((tmp_path / "fetched.json").read_text())
    assert record["from"] == server.base
    assert {*record["files"]} == expected
    data = server.files[f"datasets/{NAME}/fineweb_train_000001.bin"]
    entry = record["files"][f"{NAME}/fineweb_train_000001.bin"]
    assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert shard_of(tmp_path, 1).read_bytes() == data


def test_a_second_run_fetches_nothing_and_a_larger_one_only_what_is_new(server, tmp_path):
    run(server, tmp_path)
    server.asked.clear()
    assert run(server, tmp_path) == 0
    assert server.asked == []
    assert run(server, tmp_path, "--train-shards", "3") == 0
    assert [path for path, _ in server.asked] == [f"datasets/{NAME}/fineweb_train_{i:06d}.bin" for i in (1, 2)]


def test_a_connection_that_breaks_goes_on_where_it_stopped(server, tmp_path):
    run(server, tmp_path, "--train-shards", "0")
    server.asked.clear()
    server.breaks = [30_000, 0, 20_000]
    assert run(server, tmp_path) == 0
    assert [wanted for _, wanted in server.asked] == [None, "bytes=30000-", "bytes=30000-", "bytes=50000-"]
    assert shard_of(tmp_path).read_bytes() == a_shard(0)
    assert not list(tmp_path.rglob("*.part*"))


def test_when_it_gives_up_what_arrived_is_kept_and_the_next_run_goes_on(server, tmp_path, capsys):
    run(server, tmp_path, "--train-shards", "0")
    server.breaks = [10_000] * 4
    assert run(server, tmp_path) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.endswith("the connection ended after 40000 of 81024 bytes, 4 times; 40000 bytes are kept: "
                            "run it again to go on")  # fmt: skip
    assert not shard_of(tmp_path).exists()
    server.asked.clear()
    assert run(server, tmp_path) == 0
    assert server.asked[0][1] == "bytes=40000-"
    assert shard_of(tmp_path).read_bytes() == a_shard(0)


@pytest.mark.parametrize("how", ["new version", "no ranges", "no tags", "no tag kept"])
def test_a_part_that_cannot_be_gone_on_with_is_begun_anew(server, tmp_path, how):
    run(server, tmp_path, "--train-shards", "0")
    server.gives_tags = how != "no tags"
    server.breaks = [10_000] * 4
    run(server, tmp_path)
    path = f"datasets/{NAME}/fineweb_train_000000.bin"
    if how == "new version":
        server.files[path] = a_shard(77)
    elif how == "no ranges":
        server.knows_ranges = False
    elif how == "no tag kept":
        for tag in tmp_path.rglob("*.tag"):
            tag.unlink()
    server.breaks = []
    assert run(server, tmp_path) == 0
    assert shard_of(tmp_path).read_bytes() == server.files[path]


def test_a_part_that_is_whole_already_is_asked_for_again(server, tmp_path):
    run(server, tmp_path, "--train-shards", "0")
    path = f"datasets/{NAME}/fineweb_train_000000.bin"
    part = shard_of(tmp_path).with_name("fineweb_train_000000.bin.part")
    part.write_bytes(server.files[path])
    part.with_name(part.name + ".tag").write_text(f'"{hashlib.md5(server.files[path]).hexdigest()}"')
    assert run(server, tmp_path) == 0
    assert shard_of(tmp_path).read_bytes() == server.files[path]


def test_a_digest_that_the_server_names_before_redirecting_is_held_against_what_arrives(server, tmp_path, capsys):
    path = f"datasets/{NAME}/fineweb_train_000000.bin"
    server.linked[path] = hashlib.sha256(server.files[path]).hexdigest()
    assert run(server, tmp_path) == 0
    shard_of(tmp_path).unlink()
    server.files[path] = a_shard(5)
    assert run(server, tmp_path) == 3
    assert "the server says sha256" in capsys.readouterr().err
    assert not list(tmp_path.rglob("fineweb_train*"))


def test_a_file_fetched_again_must_be_what_it_was(server, tmp_path, capsys):
    run(server, tmp_path)
    shard_of(tmp_path).unlink()
    server.files[f"datasets/{NAME}/fineweb_train_000000.bin"] = a_shard(5)
    assert run(server, tmp_path) == 3
    assert "fetched.json sha256" in capsys.readouterr().err


def test_a_file_that_changed_on_disk_is_refused_by_a_fetch_and_by_a_check(server, tmp_path, capsys):
    run(server, tmp_path)
    assert run(server, tmp_path, "--check") == 0
    assert "5 of 5 files are as they were fetched" in capsys.readouterr().out
    data = bytearray(shard_of(tmp_path).read_bytes())
    data[5000] ^= 1
    shard_of(tmp_path).write_bytes(data)
    (tmp_path / "tokenizers" / "f.vocab").unlink()
    assert run(server, tmp_path, "--check") == 3
    said = capsys.readouterr()
    assert "3 of 5" in said.out
    assert "f.vocab is missing" in said.err
    assert run(server, tmp_path) == 3
    assert "is not what was fetched: expected 81024 bytes" in capsys.readouterr().err


def test_a_file_that_was_there_before_is_hashed_and_recorded(server, tmp_path, capsys):
    shard_of(tmp_path).parent.mkdir(parents=True)
    shard_of(tmp_path).write_bytes(a_shard(0))
    assert run(server, tmp_path) == 0
    assert "adopted: datasets/fineweb10B_sp1024/fineweb_train_000000.bin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "arguments", "code", "message"),
    [
        (lambda s: s.answers.update({"datasets/manifest.json": 404}), [], 1, "404 Not Found; is the export's name"),
        (lambda s: s.answers.update({"datasets/manifest.json": 403}), [], 1, "the server answered 403 Forbidden"),
        (lambda s: s.answers.update({"datasets/manifest.json": 503}), [], 1, "answered 503, 4 times; 0 bytes"),
        (lambda s: s.files.update({"datasets/manifest.json": b"<html>"}), [], 3, "is no JSON"),
        (lambda s: s.files.update({"datasets/manifest.json": b"[]"}), [], 1, "is not a manifest that this knows"),
        (lambda s: None, ["--variant", "sp4096"], 2, "has no fineweb10B_sp4096; it has the variants byte260, sp1024"),
        (lambda s: None, ["--variant", "../x"], 2, "--variant is byte260 or sp and a number"),
        (lambda s: None, ["--train-shards", "9"], 2, "has 3 training shards, asked for 9"),
        (lambda s: None, ["--train-shards", "-1"], 2, "must not be negative"),
        (lambda s: None, ["--url", "file:///etc"], 2, "must begin with http:// or https://"),
        (
            lambda s: s.files.update({f"datasets/{NAME}/fineweb_train_000000.bin": a_shard(0)[:-2]}),
            [], 3, "is no shard of 39999 tokens: its header says magic 20240520, version 1, 40000 tokens",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_a_code(server, tmp_path, capsys, change, arguments, code, message):
    change(server)
    assert run(server, tmp_path, *arguments) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_a_server_that_is_busy_for_a_moment_is_asked_again(server, tmp_path):
    server.answers["datasets/manifest.json"] = [503, 429, 0]
    assert run(server, tmp_path, "--train-shards", "0") == 0


def test_without_a_network_it_says_so_and_leaves_nothing(tmp_path, capsys):
    assert fetch.main(["--to", str(tmp_path), "--url", "http://127.0.0.1:9"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no connection" in last
    assert "run it again to go on" in last
    assert [p.name for p in tmp_path.iterdir()] == [".fetch.lock"]


def test_a_folder_holds_the_files_of_one_server(server, tmp_path, capsys):
    run(server, tmp_path, "--train-shards", "0")
    assert fetch.main(["--to", str(tmp_path), "--url", "http://127.0.0.1:9"]) == 2
    assert "give another --to" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"from": "x", "files": {"a": {"size": 1}}}'])
def test_a_damaged_record_is_told_and_not_overwritten(server, tmp_path, capsys, text):
    (tmp_path / "fetched.json").write_text(text)
    assert run(server, tmp_path) == 3
    assert "fetched.json cannot be read" in capsys.readouterr().err
    assert (tmp_path / "fetched.json").read_text() == text


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "", "a/../../b", "a\\..\\b"])
def test_a_name_from_the_server_cannot_leave_the_folder(name):
    with pytest.raises(fetch.FetchError, match="outside its folder"):
        fetch.inside(name)


def test_a_redirect_to_something_that_is_no_web_address_is_refused(server, tmp_path, monkeypatch):
    redirects = fetch._Redirects()
    request = fetch.urllib.request.Request("http://127.0.0.1/x")
    with pytest.raises(fetch.FetchError, match="no web address"):
        redirects.redirect_request(request, None, 302, "", {}, "ftp://127.0.0.1/x")


def test_two_fetches_into_one_folder_do_not_mix(server, tmp_path, capsys):
    with fetch.only_one(tmp_path):
        assert run(server, tmp_path) == 1
    assert "another fetch is writing" in capsys.readouterr().err


def test_it_runs_as_a_script_with_nothing_installed(server, tmp_path):
    command = [sys.executable, "-I", "-S", str(SCRIPT), "--to", str(tmp_path), "--url", server.base]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"fetched: {NAME}/fineweb_train_000000.bin (81024 bytes)"
