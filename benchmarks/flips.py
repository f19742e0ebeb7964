"""One flipped bit at a random place: who notices?

    python -m benchmarks.flips [--flips N] [--seed S] [--json]

A small ledger with everything in it (packs, single events, a large commit, metric chunks and packs of
them, blobs, checkpoints, tiles) is made in a temporary folder. Then, N times, one bit of one file that
is truth or a tile is flipped, and put back; each kind of file is taken equally often, and in it each
bit. `ledger verify --level derived` has to find every one. Where the file is Parquet it is also read by
pyarrow (with and without page checksums) and by DuckDB: counted are the reads that raised nothing, and
of those the ones whose rows were not what had been written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import machine

KINDS = ("LEDGER.json", "log", "pack", "chunk", "chunkpack", "blob", "checkpoint", "tlog")


def realistic(root: str) -> None:
    """A ledger with runs, their metrics and artefacts, a commit of a hundred, single events; some of it
    packed, with checkpoints and tiles."""
    import ledger
    from ledger import checkpoints, compaction, points, tiles
    from ledger.events import EventRetracted
    from ledger.writer import Draft

    log = ledger.Log.create(root)
    for seed in range(2):
        run = ledger.init(path=root, seed=seed, config={"lr": 0.02, "width": 256}, metric="val_bpb")
        for step in range(400):
            run.log({"loss": 4.0 / (step + 1), "grad_norm": 0.1 * (step % 7)}, step=step)
            if step % 11 == 0:
                run.flush()
        run.probe("rank", {"rank": 12.0}, subject="layer.0", method="svd/1")
        source = Path(root, "tmp", f"weights-{seed}")
        source.write_bytes(bytes(random.Random(seed).randbytes(3000)))
        run.artifact(source, kind="model")
        source.unlink()
        run.finish(val_bpb=1.2 + seed / 100)
    many = [Draft("event/notes", EventRetracted(target="0" * 36, reason=f"note number {n}")) for n in range(100)]
    log.writer.append(many)
    for _ in range(2):  # what was packed is removed the second time
        compaction.compact(log, grace=0)
        points.pack_chunks(log, grace=0)
    run = ledger.init(path=root, seed=2, config={"lr": 0.02}, metric="val_bpb")
    run.log({"loss": 1.0, "grad_norm": 0.1}, step=0)
    run.finish(val_bpb=1.2)
    for draft in many[:12]:
        log.writer.append([draft])
    tiles.write(log, checkpoints.sign(log))
    log.close()


def kept(root: str) -> dict[str, list[Path]]:
    """Every file that holds truth, and the tiles, by kind."""
    found = {name: sorted(path for path in Path(root, name).rglob("*") if path.is_file()) for name in KINDS}
    return {**found, "LEDGER.json": [Path(root, "LEDGER.json")]}


def readers() -> dict[str, Any]:
    """Functions from a Parquet file to its rows."""
    import duckdb
    import pyarrow.parquet as pq

    def by_duckdb(path: str) -> object:
        with duckdb.connect() as connection:  # some damage is fatal to the whole connection
            return connection.sql(f"SELECT * FROM read_parquet('{path}')").to_arrow_table().to_pydict()

    return {
        "pyarrow": lambda path: pq.ParquetFile(path).read().to_pydict(),
        "pyarrow with checksums": lambda path: (
            pq.ParquetFile(path, page_checksum_verification=True).read().to_pydict()
        ),
        "duckdb": by_duckdb,
    }


def experiment(root: str, flips: int, seed: int) -> dict[str, Any]:
    """Flip and look. `missed` lists what verify did not find; `reads` counts what the readers did."""
    from ledger.errors import LedgerError
    from ledger.verify import verify

    files = {kind: paths for kind, paths in kept(root).items() if paths}
    sizes = {kind: [path.stat().st_size for path in paths] for kind, paths in files.items()}
    chance = random.Random(seed)
    originals: dict[tuple[str, Path], str] = {}
    counts: Counter[str] = Counter()
    missed = []
    for number in range(flips):
        kind = list(files)[number % len(files)]
        (path,) = chance.choices(files[kind], sizes[kind])
        data = path.read_bytes()
        bit = chance.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        counts[kind] += 1
        if path.suffix == ".parquet":
            for name, read in readers().items():
                if (name, path) not in originals:
                    originals[name, path] = repr(read(str(path)))
        path.write_bytes(flipped)
        try:
            try:
                if not verify(root, level="derived").problems:
                    missed.append(f"{path.relative_to(root)} bit {bit}")
            except LedgerError:
                pass
            if path.suffix == ".parquet":
                counts["parquet"] += 1
                for name, read in readers().items():
                    try:
                        rows = repr(read(str(path)))
                    except Exception:
                        continue
                    counts[f"{name}: silent"] += 1
                    counts[f"{name}: wrong rows"] += rows != originals[name, path]
        finally:
            path.write_bytes(data)
    return {"flips": flips, "bytes": sum(map(sum, sizes.values())), "missed": missed, "counts": dict(counts)}


def sentences(found: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    counts = found["counts"]
    parquet = counts.get("parquet", 0)
    where = ", ".join(f"{counts.get(name, 0)} in {name}" for name in KINDS)
    said = [
        f"{found['flips']} single-bit flips in {found['bytes']:,} bytes ({where})",
        f"ledger verify found {found['flips'] - len(found['missed'])} of {found['flips']}",
    ]
    for name in readers():
        silent, wrong = counts.get(f"{name}: silent", 0), counts.get(f"{name}: wrong rows", 0)
        said.append(
            f"{name}: {silent} of {parquet} damaged Parquet files read without an error, {wrong} with wrong rows"
        )
    return said


def main() -> None:
    """Run the experiment and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ.pop("LEDGER_RUN_ID", None)
    said = machine.describe("experiment-ledger", "pyarrow", "duckdb")
    with tempfile.TemporaryDirectory(prefix="flips-") as folder:
        root = os.path.join(folder, "ledger")
        realistic(root)
        found = experiment(root, given.flips, given.seed)
    if given.json:
        print(json.dumps({"machine": said, "seed": given.seed, **found}))
        return
    print(machine.line(said))
    print("\n".join(sentences(found)))


if __name__ == "__main__":
    main()
