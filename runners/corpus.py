"""The default corpus: real English that is already on the machine, as token shards with exact byte counts.

The text is the documentation that ships inside Python: the help topics, and the docstrings and long
comments of the standard library, read from source and never imported. So a first run needs no download,
and one Python version gives one corpus, byte for byte, whose digest a run can record.

    documents     one a help topic, one a module; a paragraph that occurred before is dropped, so that the
                  held-out text is not also in the training text; every 16th document (by hash) is held out
    tokenizer     sentencepiece BPE with byte fallback, trained on training text only, identity
                  normalisation, no dummy prefix: decoding gives the text back, byte for byte
    shards        one for training, one held out, in the challenge's format (see shards.py)

What it must never do: let a token's byte length differ from the text that it stands for. Bits per byte
divide by these lengths, and a tokenizer that gets them wrong wins every comparison.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import sysconfig
import tempfile
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runners import bytecount
from runners.bytecount import ByteCount
from runners.shards import CorpusError, load_shard, write_shard

__all__ = ["Corpus", "CorpusError", "load_shard", "prepare", "write_shard"]

RECIPE = 1  # raise it when any line below changes the bytes of the corpus: the cache folder is named for it
VOCAB_SIZE = 1024
HELD_OUT_ONE_IN = 16  # documents

# Not English about Python (tests, tables), or packaged apart by some distributions, which would make the
# same Python version give two corpora.
_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "distutils", "tkinter"}
    | {"ensurepip", "turtledemo", "encodings", "pydoc_data", "lib-dynload", "__phello__", "__pycache__"}
)
_COMMENT = re.compile(r"(?:^ *#(?: .*)?\n){3,}", re.MULTILINE)  # three lines or more: prose, not a label
_META = "\u2581"  # sentencepiece writes a space so; in the text itself it would come back as a space

Documents = Mapping[str, str]


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus, ready to train on.

    `shards`: the training text, uint16 [tokens] each, memory-mapped; `val`: the held-out text, the same. Each
    document begins with the token `bos`.
    `counts`: the bytes of text that a token stands for.
    `digests`, `sizes`: by file name; `digest`: one sha256 over all of them, the corpus's identity.
    """

    folder: Path
    tokenizer_path: Path
    digests: Mapping[str, str]
    sizes: Mapping[str, int]
    digest: str
    vocab_size: int
    bos: int
    shards: tuple[np.ndarray, ...]
    val: np.ndarray
    counts: ByteCount

    @property
    def train(self) -> np.ndarray:
        """The training text of a corpus of one shard. Raises CorpusError where there are several: part is not all."""
        if len(self.shards) != 1:
            raise CorpusError(f"{self.folder}: {len(self.shards)} training shards do not make one array")
        return self.shards[0]

    @property
    def train_tokens(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size], where a token's bytes do not depend on the one before it. Else raises CorpusError."""
        if self.counts.leading_space.any():
            raise CorpusError(f"{self.folder}: a token's bytes depend on the token before it: use counts")
        return self.counts.base


def prepare(cache: Path | None = None) -> Corpus:
    """The default corpus, built on the first call (about ten CPU seconds) and opened afterwards.

    `cache` is the folder that holds corpora; by default $XDG_CACHE_HOME or ~/.cache, `experiment-ledger`.
    A folder that is incomplete or whose bytes do not match their digests is built again.
    """
    import sentencepiece

    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME")  # the standard says: a relative path there is to be ignored
        base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
        cache = base / "experiment-ledger"
    versions = f"r{RECIPE}-py{platform.python_version()}-sp{sentencepiece.__version__}"
    folder = cache / f"corpus-{versions}"
    if folder.exists():
        try:
            return open_corpus(folder)
        except (CorpusError, OSError) as error:
            warnings.warn(f"corpus cache {folder} is damaged ({error}); building it again", stacklevel=2)
    return build(english_documents(), folder)


# --- Documents ------------------------------------------------------------------------------------------


def english_documents() -> dict[str, str]:
    """Name -> text of every document, in a fixed order: help topics first, then modules by path.

    Raises CorpusError where Python was installed without its documentation or its sources.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError("this Python was installed without pydoc_data.topics, its help topics") from error
    raw = {f"topic:{name}": [topics[name]] for name in sorted(topics)}
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in _sources(root):
        with tokenize.open(path) as source:  # honours a coding line
            raw[f"module:{path.relative_to(root).as_posix()}"] = list(_prose(source.read()))

    seen: set[str] = set()
    documents = {}
    for name, texts in raw.items():
        paragraphs = (p for text in texts for p in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")))
        kept = [p for p in paragraphs if _is_new(p, seen)]
        if kept:
            documents[name] = "\n\n".join(kept).replace(_META, " ") + "\n"
    return documents


def _sources(root: Path) -> Iterator[Path]:
    """Source files under `root` in sorted order; what is left out is not even listed."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name not in _LEFT_OUT and not name.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):  # a table of this build
                yield Path(folder, name)


def _prose(source: str) -> Iterator[str]:
    """The docstrings of a module, outermost first, then its comments of three lines or more."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        # Statements only: docstrings never stand inside an expression, and expressions are most of a tree.
        for field in ("finalbody", "handlers", "orelse", "body"):
            waiting.extend(s for s in reversed(getattr(node, field, ()) or ()) if isinstance(s, ast.AST))
    for match in _COMMENT.finditer(source):
        yield re.sub(r"^ *# ?", "", match[0], flags=re.MULTILINE)


def _is_new(paragraph: str, seen: set[str]) -> bool:
    """Whether a paragraph's words did not occur before. Short ones ("Example:") are just language."""
    words = " ".join(paragraph.split())
    if words in seen:
        return False
    if len(words) >= 40:
        seen.add(words)
    return bool(words)


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def held_out(name: str) -> bool:
    """Whether a document belongs to the validation split: decided by its name alone, so that a document
    that comes or goes with a Python version moves no other one across."""
    return _rank(name) % HELD_OUT_ONE_IN == 0


# --- Build and open --------------------------------------------------------------------------------------


def build(documents: Documents, folder: Path, vocab_size: int = VOCAB_SIZE) -> Corpus:
    """Tokenizes `documents` (name -> text) into `folder`, which appears whole or not at all.

    Raises CorpusError when a split would be empty or a text holds U+2581, which sentencepiece cannot
    tell from a space.
    """
    import sentencepiece

    # In the order of a hash, so that the first tokens of a split are a sample of it, not its first topic.
    names = sorted(documents, key=_rank)
    splits = {
        "train": [documents[name] for name in names if not held_out(name)],
        "val": [documents[name] for name in names if held_out(name)],
    }
    for split, texts in splits.items():
        if not any(texts):
            raise CorpusError(f"no document falls in the {split} split; got {len(documents)} documents")
        if any(_META in text for text in texts):
            raise CorpusError("a document holds U+2581, which sentencepiece reads as a space: replace it")

    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model = making / "tokenizer.model"
        model.write_bytes(_train_tokenizer(splits["train"], vocab_size))
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model))
        lengths = _token_bytes(tokenizer)
        facts: dict[str, Any] = {
            "recipe": RECIPE,
            "python": platform.python_version(),
            "sentencepiece": sentencepiece.__version__,
            "vocab_size": vocab_size,
        }
        for split, texts in splits.items():
            encoded = tokenizer.encode(texts, num_threads=1)
            tokens = np.concatenate([[tokenizer.bos_id(), *ids] for ids in encoded])
            size = sum(len(text.encode()) for text in texts)
            if int(lengths[tokens].sum()) != size:
                raise CorpusError(f"{split}: tokens count {lengths[tokens].sum()} bytes, the text has {size}")
            write_shard(making / f"{split}_000000.bin", tokens)
            facts[split] = {"documents": len(texts), "tokens": len(tokens), "bytes": size}
        facts["sha256"] = {path.name: file_sha256(path) for path in sorted(making.iterdir())}
        (making / "corpus.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        _publish(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return open_corpus(folder)


def _publish(making: Path, folder: Path) -> None:
    """Renames the finished folder into place. Over a full folder that fails, so the old one steps aside."""
    for _ in range(10):
        try:
            making.rename(folder)
            return
        except OSError:
            if not folder.exists():
                raise
        try:
            open_corpus(folder)  # another process was first, with the same bytes: its work is as good
            return
        except (CorpusError, OSError):
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-damaged-", dir=folder.parent))
            try:
                folder.rename(aside / "corpus")
            except FileNotFoundError:
                pass  # another process moved it first
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    raise CorpusError(f"could not put the corpus at {folder}: another process keeps replacing it")


def open_corpus(folder: Path) -> Corpus:
    """Opens a corpus folder after checking every file against its digest.

    Raises CorpusError when a file is missing, differs from its digest, or is no valid shard.
    """
    import sentencepiece

    try:
        facts = json.loads((folder / "corpus.json").read_text())
        digests: dict[str, str] = dict(sorted(facts["sha256"].items()))
        vocab_size = int(facts["vocab_size"])
    except FileNotFoundError:
        raise CorpusError(f"{folder}: no corpus.json, so this is no finished corpus") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{folder}/corpus.json cannot be read: {error!r}") from error
    for name in ("tokenizer.model", "train_000000.bin", "val_000000.bin"):
        if not (folder / name).is_file():
            raise CorpusError(f"{folder}: {name} is missing")
        found = file_sha256(folder / name)
        if found != digests.get(name):
            raise CorpusError(f"{folder}/{name}: expected sha256 {digests.get(name)}, found {found}")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return Corpus(
        folder=folder,
        tokenizer_path=folder / "tokenizer.model",
        digests=digests,
        sizes={name: (folder / name).stat().st_size for name in digests},
        digest=hashlib.sha256("".join(f"{n} {d}\n" for n, d in digests.items()).encode()).hexdigest(),
        vocab_size=vocab_size,
        bos=tokenizer.bos_id(),
        shards=(load_shard(folder / "train_000000.bin", vocab_size),),
        val=load_shard(folder / "val_000000.bin", vocab_size),
        counts=bytecount.exact(_token_bytes(tokenizer)),
    )


# --- Tokenizer and shards -----------------------------------------------------------------------------------


def _train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """A sentencepiece model, as bytes. All of two megabytes takes half a second, so no sample is drawn."""
    import io

    import sentencepiece

    lines = (line for text in texts for line in text.split("\n") if line)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            num_threads=1,  # more threads may count in another order: another tokenizer
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # indentation as one token
            split_digits=True,
            user_defined_symbols=["\n"],  # lines are the training unit, so it would never be learnt
            unk_id=0, bos_id=1, eos_id=-1, pad_id=-1,
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise CorpusError(f"sentencepiece could not make {vocab_size} tokens: {str(error).strip()}") from error
    return model.getvalue()


def _token_bytes(tokenizer: Any) -> np.ndarray:
    """int32 [vocab]: bytes of text that a token stands for; none for a control token, one for a fallback token.

    Without a dummy prefix a piece's "▁" is always a space that is there, whatever stands before it.
    """
    lengths = np.zeros(tokenizer.get_piece_size(), dtype=np.int32)
    for token in range(len(lengths)):
        if tokenizer.is_control(token) or tokenizer.is_unknown(token) or tokenizer.is_unused(token):
            continue
        piece = tokenizer.id_to_piece(token)
        lengths[token] = 1 if tokenizer.is_byte(token) else len(piece.replace(_META, " ").encode())
    return lengths


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
