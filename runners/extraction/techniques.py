"""From a phrase to techniques: clean labels, bundles taken apart, values as the level, what is no technique."""

from __future__ import annotations

import re
from typing import NamedTuple

from runners.extraction import numbers
from runners.extraction.markdown import plain
from runners.extraction.vocabulary import Technique, Vocabulary, strongest

LABEL = 120  # characters of a label

_LEAD = re.compile(r"^(?:\d{1,2}[.)]\s+|[+&]\s+|and\s+|new:\s+|\(\w\)\s+)", re.I)
TAIL_DELTA = re.compile(r"\s\([^()]{0,60}\b(?:bpb|bpp|nats?)\b[^()]{0,60}\)\s*$", re.I)
_NOT_ONE = re.compile(
    r"^(?:(?:base|anchor|parent|reference|(?:single|only) change)$|total|net\b|net effect|result|results|combined"
    r"|everything else|same\b|mean\b|average|std\b|final\b"
    r"|overall|baseline\b"
    r"|naive baseline|val[_ ]|bpb(?:\s?[:=(]|$)|artifact|submission|previous|current|this (?:pr|work|submission"
    r"|run)\b"
    r"|note\b|key propert"
    r"|mechanism|empirical|training\b.{0,12}(?:unchanged|identical)|same code|all \d seeds|improvement|delta"
    r"|steps?\b|seeds?\b"
    r"|.{0,60}\blesson\b|condition \d|the (?:bug|fix|problem|discovery)\b|example|why\b|how\b|what\b"
    r"|checklist|hypothesis|caveat|observation|takeaway|conclusion|motivation|data[:.]?$|hardware|polish|misc|cleanups?)",
    re.I,
)
_CATEGORY = re.compile(
    r"^(?:(?:the|other|additional|main|key|new|core|model|small|our|further|minor|technical|eval|train"
    r"|training|post-training"
    r"|evaluation|architecture|architectural|optimizer|quantization|compression|hyper-?parameter|schedule|data"
    r"|systems?)[\s/&,-]*)*"
    r"(?:architecture|training|evaluation|eval|compression|quantization|quantisation|optimi[sz]ers?"
    r"|optimization|data|fixes"
    r"|simplifications|additions|changes?|techniques?|improvements?|overview|details|configuration|config"
    r"|summary|components?"
    r"|background|results?|method|implementation|analysis|hyper-?parameters?|tuning|stack|export|thesis"
    r"|systems|schedule)$",
    re.I,
)
_SETTING = re.compile(
    r"`?\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[a-z]+(?:_[a-z0-9]+)+|WD|LR|MLR|EMA|SWA|BETA2)`?\s?=\s?`?([\w.,/-]{1,20})"
)
_LOGGING = re.compile(
    r"^(VAL_LOSS_EVERY|TRAIN_LOG_EVERY|RUN_ID|DATA_PATH|TOKENIZER_PATH|SEED|MAX_WALLCLOCK_SECONDS|ITERATIONS"
    r"|NCCL\w*|OMP\w*"
    r"|VAL_BATCH_SIZE|DATA_DIR|\w+_ENABLED|NPROC\w*|EVAL_BATCH_SEQS|ARTIFACT_DIR)$",
    re.I,
)
_LEVEL = (
    re.compile(r"\b(?:last|first|deepest|top|final) \d+(?: layers?| blocks?)?\b|\ball(?: \d+)? layers\b", re.I),
    re.compile(r"\blayers? \d[\d,–+-]*\+?", re.I),
    re.compile(r"\(([^()]{0,40}\d[^()]{0,24})\)"),
    re.compile(r"(?:=|:)\s?`?([~]?\.?\d[\w.,/-]{0,15})"),
    re.compile(r"\b(\d+(?:\.\d+)?[xX×]|\d{1,3}(?:,\d{3})+|\d+ (?:of|/) \d+(?: dims)?|\d+k\b)"),
    re.compile(r"\b(\d+(?:\.\d+)?)\s*(?:steps|iterations|layers|buckets|dims|epochs|bits?)?\b"),
)


class Named(NamedTuple):
    """A label with the technique that it names, None where the vocabulary has none."""

    label: str
    technique: Technique | None


def clean(text: str) -> str:
    """A label without mark-up, numbering, a figure of its effect at the end, and the colon that follows it."""
    text = plain(text)
    for _ in range(2):
        text = _LEAD.sub("", text).strip()
    text = TAIL_DELTA.sub("", text)
    text = text.strip(" :;—–-.,*").strip()
    return shorten(text)


def shorten(text: str, limit: int = LABEL) -> str:
    if len(text) <= limit:
        return text
    return text[: text.rfind(" ", 0, limit) if " " in text[:limit] else limit].rstrip(" ,;(")


def is_none(label: str) -> bool:
    """Whether a label cannot be a technique: a sum, a metric, a remark, nothing but a number."""
    return len(label) < 2 or _NOT_ONE.match(label) is not None or re.search(r"[A-Za-z]{2}", label) is None


def is_category(label: str) -> bool:
    """Whether a heading only says what kind of things follow."""
    return _CATEGORY.match(label.strip()) is not None


def naming(label: str, vocabulary: Vocabulary) -> Technique | None:
    """The technique that a label names: one that begins before its first bracket, else one in the bracket."""
    mentions = vocabulary.mentions(label)
    bracket = re.search(r"\s[(\[]", label)
    head = [each for each in mentions if bracket is None or each.start < bracket.start()]
    found = strongest(head) or strongest(mentions)
    setting = re.fullmatch(r"([A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+)(?:\s?[=:].*|\s.*)?", label)
    if found is not None and setting is not None and found.start == 0 and found.end < len(setting[1]):
        return None  # a setting of its own, not the technique whose name it begins with
    return found.technique if found else None


_FILLER = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "for",
        "with",
        "and",
        "in",
        "on",
        "to",
        "by",
        "via",
        "per",
        "structure",
        "module",
        "variant",
        "layer",
        "layers",
        "based",
        "new",
        "our",
    ]
)


def only_names(words: str, vocabulary: Vocabulary) -> bool:
    """Whether a heading says nothing but names of known techniques, brackets and numbers aside."""
    head = re.split(r"\s[(\[]|:\s", words, maxsplit=1)[0]
    mentions = vocabulary.mentions(head)
    rest, at = "", 0
    for each in mentions:
        rest += head[at : each.start] + " "
        at = each.end
    rest += head[at:]
    left = [word for word in re.findall(r"[A-Za-z]+", rest) if word.lower() not in _FILLER]
    return bool(mentions) and not left


def parts(label: str, vocabulary: Vocabulary) -> list[Named]:
    """A bundle (A + B) taken apart where each part is known and they differ; else the label as it is."""
    pieces = [clean(piece) for piece in outside_brackets(label)]
    pieces = [piece for piece in pieces if piece]
    if len(pieces) > 1:
        found = [Named(piece, naming(piece, vocabulary)) for piece in pieces]
        known = [each.technique.id for each in found if each.technique is not None]
        if len(known) == len(found) and len(set(known)) > 1:
            return found
    whole = clean(label)
    return [Named(whole, naming(whole, vocabulary))]


def is_bundle(label: str) -> bool:
    """Whether a label adds things together, known or not: a figure beside it is no single one's."""
    return " + " in re.sub(r"[(\[][^()\[\]]*[)\]]", "", label.lstrip("+ "))


def outside_brackets(label: str) -> list[str]:
    """The pieces of a text between " + ", " & " and " and ", brackets kept whole."""
    pieces, start, depth = [], 0, 0
    for found in re.finditer(r"[()\[\]]|\s(?:\+|&|and)\s", label):
        if found[0] in "([":
            depth += 1
        elif found[0] in ")]":
            depth = max(0, depth - 1)
        elif depth == 0:
            pieces.append(label[start : found.start()])
            start = found.end()
    return [*pieces, label[start:]]


class Setting(NamedTuple):
    name: str
    value: str
    before: str | None
    start: int


_ANY_SETTING = re.compile(r"`?(?<![\w.])([A-Za-z]\w{1,40})`?\s?=\s?`?([~]?\.?\d[\w.,/-]{0,19})")


def settings(text: str, short: bool = False) -> list[Setting]:
    """The settings NAME=VALUE of a text, with what they were where it says so; those of logging are left out.

    `short` takes names of one plain word too.
    """
    found = []
    for match in (_ANY_SETTING if short else _SETTING).finditer(text[:4000]):
        if _LOGGING.match(match[1]):
            continue
        after = text[match.end() : match.end() + 80]
        was = re.match(
            r"`?\*{0,2}\s?\((?:was|default:?|vs\.?(?: default)?|up from|down from|from"
            r"|instead of)\s`?([\w.,%-]{1,20})",
            after,
        )
        found.append(Setting(match[1], match[2].rstrip(".,"), was[1].rstrip(".,") if was else None, match.start()))
    return found


def level(label: str, after: str | None) -> str | None:
    """The values of a technique as written: "last 4 layers", "10240", "16 of 64 dims"; the setting's where told."""
    label = re.sub(r"#\d+|\bPR\s?\d+", "", label)
    for text in (label, after or ""):
        for pattern in _LEVEL[:4]:
            found = pattern.search(text)
            value = ((found[1] if found.groups() else found[0]) if found is not None else "").strip(" `*,.")
            if value and not re.match(r"(vs|from|up|down|default|was|ported|instead|row)\b", value, re.I):
                return value[:60]
    if after and numbers.NUMBER.search(after):
        return after[:60]
    for pattern in _LEVEL[4:]:
        found = pattern.search(label)
        if found is not None:
            return found[1].strip()[:60]
    return after[:60] if after else None
