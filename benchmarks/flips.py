"""One flipped bit at a random place: who notices?

    python -m benchmarks.flips [--flips N] [--seed S] [--json]

A small ledger with everything in it (single events, a large commit, metric chunks, blobs) is made in
a temporary folder. Then, N times, one bit of one file that holds truth (LEDGER.json, log/, chunk/,
blob/) is flipped, and put back. `ledger verify` has to find every one. Where the file is Parquet it
is also read by pyarrow (with and without page checksums) and by DuckDB: counted are the reads that
raised nothing, and of those the ones whose rows were not what had been written.
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


def realistic(root: str) -> None:
    """A ledger with a run, its metrics and artefacts, single events and a commit of a hundred."""
    import ledger
    from ledger.events import EventRetracted
    from ledger.writer import Draft

    log = ledger.Log.create(root)
    for seed in range(2):
        run = ledger.init(path=root, seed=seed, config={"lr": 0.02, "width": 256}, metric="val_bpb")
        for step in range(400):
            run.log({"loss": 4.0 / (step + 1), "grad_norm": 0.1 * (step % 7)}, step=step)
        run.probe("rank", {"rank": 12.0}, subject="layer.0", method="svd/1")
        source = Path(root, "tmp", f"weights-{seed}")
        source.write_bytes(bytes(random.Random(seed).randbytes(3000)))
        run.artifact(source, kind="model")
        source.unlink()
        run.finish(val_bpb=1.2 + seed / 100)
    many = [Draft("event/notes", EventRetracted(target="0" * 36, reason=f"note number {n}")) for n in range(100)]
    log.writer.append(many)
    for draft in many[:12]:
        log.writer.append([draft])
    log.close()


def truth(root: str) -> list[Path]:
    """Every file that holds truth."""
    found = [Path(root, "LEDGER.json")]
    for name in ("log", "chunk", "blob"):
        found += sorted(path for path in Path(root, name).rglob("*") if path.is_file())
    return found


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

    files = truth(root)
    sizes = [path.stat().st_size for path in files]
    chance = random.Random(seed)
    originals: dict[tuple[str, Path], str] = {}
    counts: Counter[str] = Counter()
    missed = []
    for _ in range(flips):
        (path,) = chance.choices(files, sizes)
        data = path.read_bytes()
        bit = chance.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        counts[path.relative_to(root).parts[0]] += 1
        if path.suffix == ".parquet":
            for name, read in readers().items():
                if (name, path) not in originals:
                    originals[name, path] = repr(read(str(path)))
        path.write_bytes(flipped)
        try:
            try:
                if not verify(root).problems:
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
    return {"flips": flips, "bytes": sum(sizes), "missed": missed, "counts": dict(counts)}


def sentences(found: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    counts = found["counts"]
    parquet = counts.get("parquet", 0)
    where = ", ".join(f"{counts.get(name, 0)} in {name}" for name in ("log", "chunk", "blob", "LEDGER.json"))
    said = [
        f"{found['flips']} single-bit flips in {found['bytes']:,} bytes of truth ({where})",
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
    parser.add_argument("--flips", type=int, default=400)
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
