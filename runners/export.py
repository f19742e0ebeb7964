"""A folder of published shards as a corpus: fineweb_train_*.bin, fineweb_val_*.bin and a sentencepiece model.

What `data/fetch.py` makes, and what the challenge's own scripts read: the tokenizer lies in the folder itself, or
beside it in `../../tokenizers/`. Every file that is used is hashed when the folder is opened, so that a run's record
says which tokens it saw.

What it must never do: train on fewer shards than it was told. A shard that is missing in the row is an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from runners import bytecount
from runners.corpus import Corpus, CorpusError, file_sha256
from runners.shards import load_shard

_NAMED = re.compile(r"fineweb_(train|val)_(\d{6})\.bin")


def open_export(folder: Path, train_shards: int = 0) -> Corpus:
    """The corpus in `folder`. train_shards: the first so many of them; 0: all that are there.

    Raises CorpusError, in one line, for a folder that is not there, shards that are missing or damaged, no tokenizer
    or several.
    """
    import sentencepiece

    if not folder.is_dir():
        raise CorpusError(f"data: there is no folder {folder}; fetch the published shards with python data/fetch.py")
    train = _row(folder, "train", train_shards)
    val = _row(folder, "val", 0)
    model = _tokenizer(folder)
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise CorpusError(f"{model}: no sentencepiece model: {str(error).strip().splitlines()[0]}") from None
    counts = bytecount.of_tokenizer(tokenizer)
    used = [*train, *val, model]
    with ThreadPoolExecutor(4) as pool:  # hashing lets go of the interpreter: as fast as the disk
        shards = list(pool.map(lambda path: load_shard(path, counts.vocab_size), [*train, *val]))
        hashes = list(pool.map(file_sha256, used))
    digests = {path.name: digest for path, digest in zip(used, hashes, strict=True)}
    sizes = {path.name: path.stat().st_size for path in used}
    digests, sizes = _folded(digests, sizes, train)
    held_out = shards[len(train) :]
    return Corpus(
        folder=folder,
        tokenizer_path=model,
        digests=digests,
        sizes=sizes,
        digest=hashlib.sha256("".join(f"{n} {d}\n" for n, d in sorted(digests.items())).encode()).hexdigest(),
        vocab_size=counts.vocab_size,
        bos=tokenizer.bos_id(),
        shards=tuple(shards[: len(train)]),
        val=held_out[0] if len(held_out) == 1 else np.concatenate(held_out),
        counts=counts,
    )


def _row(folder: Path, split: str, wanted: int) -> list[Path]:
    """The shards 000000, 000001, … of a split; `wanted` of them, or all."""
    numbers = sorted(
        int(match[2]) for path in folder.iterdir() if (match := _NAMED.fullmatch(path.name)) and match[1] == split
    )
    expected = range(wanted or (numbers[-1] + 1 if numbers else 1))
    there = {*numbers}
    if missing := [number for number in expected if number not in there]:
        name = f"fineweb_{split}_{missing[0]:06d}.bin"
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CorpusError(f"{folder}: {name} is missing{more}; python data/fetch.py gets it")
    return [folder / f"fineweb_{split}_{number:06d}.bin" for number in expected]


def _tokenizer(folder: Path) -> Path:
    """The one sentencepiece model of a folder: in it, else the one for its vocabulary beside it."""
    found = sorted(folder.glob("*.model"))
    if not found:
        beside = folder.resolve().parent.parent / "tokenizers"
        found = sorted(beside.glob("*.model"))
        if len(found) > 1 and (size := re.search(r"sp(\d+)$", folder.resolve().name)):
            found = [path for path in found if re.search(rf"(?<!\d){size[1]}(?!\d)", path.name)]
        if not found:
            raise CorpusError(f"{folder}: no tokenizer: expected one *.model there or in {beside}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CorpusError(f"{folder}: which tokenizer? There are {names}; leave one of them")
    return found[0]


def _folded(
    digests: dict[str, str], sizes: dict[str, int], train: Iterable[Path]
) -> tuple[dict[str, str], dict[str, int]]:
    """With many training shards, one entry for all of them: it stands in the start of every run."""
    names = [path.name for path in train]
    if len(names) <= 4:
        return digests, sizes
    listed = "".join(f"{name} {digests[name]}\n" for name in names)
    one = f"{names[0]}..{names[-1]}"
    kept = {name: digest for name, digest in digests.items() if name not in names}
    return (
        kept | {one: hashlib.sha256(listed.encode()).hexdigest()},
        {name: sizes[name] for name in kept} | {one: sum(sizes[name] for name in names)},
    )
