"""Metrics out of the text that a training program prints, line by line, with no help from the program.

What it reads: ``name:value`` and ``name=value`` with or without spaces, JSON lines, Python dicts as Hugging
Face prints them, nanoGPT's ``iter 12: loss 3.2, time 40ms``, progress bars. What it must never do: make up a
metric (a clock, an address, a version, a line of source is not one), lose one because it says NaN, or stop
the program that it listens to: ``feed`` raises nothing and its work on a line is bounded.

Decisions, so that a reader of the numbers knows what they are:

* A value is kept as printed. ``123ms`` is 123, ``93.5%`` is 93.5, ``1.2M`` is 1.2; the unit is not part of
  the name. ``1,234`` is read only where it cannot be a list: with a decimal part (``1,234.5``), a group that
  begins with 0 (``62,021,632``), or a unit behind it (``1,234 bytes``). Otherwise it is not read at all.
* A name keeps its letters; spaces become ``_``. ``val loss: 3.2`` is ``val_loss``, ``eval/loss`` stays. A name
  that already holds ``_`` is complete; words before it are not drawn in (``quantized val_loss:3`` is ``val_loss``).
* A step, once printed, holds until the next one. ``epoch`` is the step only when it is a whole number and no
  real step was ever seen; else it is a metric. A progress bar's count is the step of its own line alone.
* A fraction (``batch 3/10``), a range (``409-410``) and a count of things (``eval: 100 batches``) are not metrics.
* A name that a user's pattern claims is read by patterns alone, so that ``final val_bpb`` can be told from others.
"""

import ast
import builtins
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

EXTRACTOR = "readout/1"
"""Name and version of this reading; recorded with what it read, so that it can be replayed from the kept text."""

MAX_LINE = 64 << 10  # characters of a line that are looked at
MAX_PATTERN_LINE = 2 << 10  # characters that a user's pattern sees: a slow regex stays slow, not endless
MAX_LITERAL = 8 << 10  # characters handed to Python's parser for a dict
MAX_NAMES = 4096  # distinct names in one run: a program that prints a name per item must not fill memory


class Point(msgspec.Struct, frozen=True):
    """One number as printed: the step it belongs to (None before any), its name, its value (may be NaN, inf)."""

    step: int | None
    name: str
    value: float


_NUMBER = (
    r"[-+−]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:_\d{3})+|\d+\.?\d*|\.\d+)(?:[eE][-+−]?\d+)?"
    r"|[-+−]?(?:[nN]a[nN]|NAN|[iI]nf(?:inity)?|INF)"
)
_UNIT = (
    r"%|[KMGTP]i?B(?:/s)?|[kKMGTBx]|B|(?:n|u|µ|μ|m)?s(?:/\w{1,10})?|secs?|m|mins?|h|hrs?|d|"
    r"(?:it|iters?|steps?|samples?|tok|tokens?|seq)/s(?:ec)?|[TGP]?FLOPS?|[km]?W|°?C|V|Hz|[MG]Hz"
)
_UNIT_WORDS = frozenset(
    "b kb mb gb tb kib mib gib tib bytes byte bits s ms us µs ns sec secs second seconds m min mins minute minutes "
    "h hr hrs hour hours it/s tok/s tokens/s tokens/sec tok/sec samples/s steps/s iter/s flops tflops gflops w c hz".split()
)
_END = r"(?=[\s;|()\[\]}'\"<>±→]|,(?!\d)|\.(?=\s|$)|$)"
_WRAP = r"(?:(?:torch\.)?tensor\(|(?:np|jnp|numpy)\.\w+\(|Array\()?"

# The cheap gate: without a separator that is followed by a number, nothing below needs to run.
_HINT = re.compile(r"[:=]\s*+['\"]?(?:(?:np|jnp|numpy|torch)\.|tensor\(|Array\(|[-+−]?(?:\.?\d|[nN][aA][nN]|[iI][nN][fF]))")
_PAIR = re.compile(
    r"(?<![\w./:@\\+%-])"  # a whole word: not the tail of a path, an address, a time or an option
    r"(?P<q>['\"]?)(?P<name>[^\W\d][\w./@+%-]*+(?<=[\w%])(?:\s?\([^()\s]{1,24}\))?)(?P=q)"
    rf"(?P<sep>\s*(?::|=(?!=))\s*){_WRAP}(?P<value>{_NUMBER})(?P<unit>{_UNIT})?{_END}"
)
_STEP_WORDS = r"(?:global[_ ])?(?:step|iter|iteration)|epoch"
_STEP = re.compile(
    rf"(?<![\w./-])(?P<word>(?i:{_STEP_WORDS}))['\"]?\s{{0,8}}[:=#]?\s{{0,8}}[\[(]?(?P<n>\d{{1,15}})(?=$|[\s,:;|/\])}}])"
)
_HEAD = re.compile(
    rf"\s*\[?(?i:{_STEP_WORDS})\s{{0,8}}[:=#]?\s{{0,8}}(?P<n>\d{{1,15}})(?:\s*/\s*\d+)?\]?(?:\s*\([\d.%\s]+\))?"
    r"(?=$|[\s,:;|\])}])\s*[:,|-]?\s*"
)
_COUNTER = re.compile(r"\s*\[?(\d{1,15})/\d{1,15}\]?[\s:|]")  # "500/20000 train_loss: 2.3"
_BAR = re.compile(r"(\d{1,15})/\d{1,15} \[\d+:\d\d")  # tqdm: "10/100 [00:01<00:09, 9.5it/s, loss=3.2]"
_PIECES = re.compile(r",(?!\d)|[|;]|\s-\s")
_BARE = re.compile(
    rf"\s*(?P<name>(?:[^\W\d][\w./@+%-]*+\s+){{1,4}})(?P<value>{_NUMBER})(?P<unit>{_UNIT})?(?![^\s(])"
    r"(?:\s+(?P<word>[A-Za-zµ%/]+)(?=\s*$))?(?:\s*\([^()]*\))?\s*"
)
_NEXT = re.compile(r"[ \t]+(?:±\s?\d+[ \t]+)?(?P<word>[A-Za-z%µ][\w/+-]*)(?P<pair>\s*[:=]|\s+[-+−]?\.?\d)?")
_LEAD = re.compile(r"(?:^|[\],;|:)}>#*•]|\s[-–—])\s*((?:[^\W\d_][\w+/-]*\s+){1,4})$")
_QUALIFIER = re.compile(
    r"(?<![\w.-])((?:(?i:train|training|val|valid|validation|eval|evaluation|test|dev|avg|average|mean|total|final|best"
    r"|running|min|max|ema|smoothed)\s+){1,3})$"
)
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_LOGGING = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:")  # logging.basicConfig's own format
_RANK = re.compile(r"\[rank\d+\]:\s?")
_LEVELS = frozenset("TRACE DEBUG INFO NOTICE WARN WARNING ERROR CRITICAL FATAL".split())
_FILE_NAME = re.compile(r"\.(?:py|pyx|ipynb|c|cc|cpp|cxx|cu|cuh|h|hpp|rs|go|js|ts|java|sh|txt|log|json|yaml|yml|toml|com|org|net|io|local)$")
_EXCEPTIONS = frozenset(
    n for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, BaseException)
) | {"Error"}
# Never a metric: counters that are the step itself, devices (``cuda:0``), things that carry versions, clocks.
_STEP_NAMES = ("step", "global_step", "iteration", "iter", "epoch")
_NOT_METRICS = frozenset(
    "localhost cuda mps xpu hip cpu python pytorch torch cudnn nccl numpy transformers triton jax line eta http https id pid port".split()
)
_STOP_WORDS = frozenset(
    "in at of to for from with after than over line took on by is was and or the a until saved saving port pid".split()
)
_CODE_TRIGGERS = ("import ", "from ", "def ", "class ", "async def ", "@", "#!/", "Traceback (most recent", "[rank", "  File \"")
_CODE_START = re.compile(
    r"import [\w.]+(?: as \w+)?(?:, ?[\w. ]+)*\s*(?:#.*)?$|from [\w.]+ import |(?:async )?def \w+\(|class \w+[(:]|@\w[\w.]*(?:\(.*)?$|#!/"
)
_CODE_LINE = re.compile(
    r"$|[\s#)\]}\"'@]|(?:import|from|def|class|async|if|elif|else|for|while|with|try|except|finally|return|assert|raise|del"
    r"|global|print|pass|lambda)\b|[\w.\[\]'\",]+(?:: ?[\w.\[\], |]+)? [-+*/|&@%]?= |\w[\w.]*\("
)


def _number(text: str, has_unit: bool) -> float | None:
    """The float that ``text`` prints, or None when its commas could as well separate a list."""
    text = text.replace("−", "-")
    if "," in text:
        groups = text.split(",")
        if groups[0].lstrip("+-") == "0" or not ("." in text or has_unit or any(g[0] == "0" for g in groups[1:])):
            return None
        text = "".join(groups)
    try:
        return float(text)
    except ValueError:
        return None


def _is_metric(name: str) -> bool:
    low = name.lower()
    if low in _NOT_METRICS or low.endswith(("version", "_id")) or name in _EXCEPTIONS:
        return False
    if "." in name and (_FILE_NAME.search(low) or name.rsplit(".", 1)[1] in _EXCEPTIONS):
        return False
    return not ("@" in name and re.search(r"@[a-zA-Z]{2}", name))  # acc@1 is one, user@host is none


class _Literal:
    """Numbers out of a Python dict as printed: nan, inf, np.float64(…) and tensor(…) included, nothing run."""

    @staticmethod
    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Dict):
            return {
                k.value: _Literal.value(v)
                for k, v in zip(node.keys, node.values, strict=True)
                if isinstance(k, ast.Constant) and isinstance(k.value, str)
            }
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = _Literal.value(node.operand)
            return -inner if isinstance(inner, (int, float)) else None
        if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
            return float(node.id)
        if isinstance(node, ast.Call) and node.args:
            return _Literal.value(node.args[0])
        return None


def _structured(text: str) -> dict[str, Any] | None:
    """The dict that ``text`` is, as JSON (NaN allowed) or as Python prints it; None if it is neither."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        try:
            if "NaN" in text or "Infinity" in text:
                found = json.loads(text)
            elif "'" in text and len(text) <= MAX_LITERAL:
                found = _Literal.value(ast.parse(text, mode="eval").body)
            else:
                return None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return found if isinstance(found, dict) else None


_WORDS_FOR_NUMBERS = frozenset(("nan", "inf", "-inf", "infinity", "-infinity"))


def _flatten(found: dict[str, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, float, bool]]:
    """(dotted name, value, whether written as a whole number) for every number; lists and text are not metrics."""
    for key, value in found.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            try:
                yield name, float(value), isinstance(value, int)
            except OverflowError:
                continue
        elif isinstance(value, dict) and depth < 8:
            yield from _flatten(value, f"{name}.", depth + 1)
        elif isinstance(value, str) and value.lower() in _WORDS_FOR_NUMBERS:
            yield name, float(value), False


_NESTED_REPEAT = re.compile(r"\((?:[^()]|\([^()]*\))*[+*](?:[^()]|\([^()]*\))*\)(?:[+*]|\{\d*,)")


def _compile(pattern: str) -> re.Pattern[str]:
    """The user's pattern, or a ValueError of one line that says what is wrong with it."""
    try:
        compiled = re.compile(pattern)
    except re.error as why:
        raise ValueError(f"metric pattern {pattern!r} is not a regular expression: {why}") from None
    groups = set(compiled.groupindex)
    if not groups - {"step"}:
        raise ValueError(
            f"metric pattern {pattern!r} names no metric: write (?P<val_bpb>…), or (?P<name>…) with (?P<value>…)"
        )
    if ("name" in groups) != ("value" in groups):
        raise ValueError(f"metric pattern {pattern!r} needs both (?P<name>…) and (?P<value>…), or neither")
    # Reading happens while the program's output waits: a pattern that can take for ever would stall the training.
    if _NESTED_REPEAT.search(re.sub(r"\\.|\[(?:\\.|[^\]])+\]", "x", pattern)):
        raise ValueError(f"metric pattern {pattern!r} repeats a repeat, which can take for ever: use one + or * only")
    return compiled


class Readout:
    """Reads one stream. ``feed`` a line at a time; ``final`` holds each name's last value, in order of first sight.

    Use one for stdout and another for stderr: the running step belongs to a stream.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = [_compile(p) for p in patterns]
        self._claimed = {g for p in self._patterns for g in p.groupindex} - {"name", "value", "step"}
        self.final: dict[str, float] = {}
        self.step: int | None = None
        self.dropped_names = 0  # points left out because MAX_NAMES names were already known
        self._real_step = False  # a step other than an epoch was seen
        self._skipping = ""  # "code" inside printed source, "traceback" inside a traceback

    @property
    def seen(self) -> tuple[str, ...]:
        """Every metric name read so far, in order of first sight."""
        return tuple(self.final)

    def feed(self, line: str) -> list[Point]:
        """The points that this line prints, left to right; an empty list for nearly every line of nearly every log."""
        if len(line) > MAX_LINE:
            line = line[:MAX_LINE]
        if "\r" in line:
            # A terminal shows the last rewriting of the line, and so do we.
            line = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        if "\x1b" in line:
            line = _ANSI.sub("", line)
        line = line.rstrip("\n")
        out: list[Point] = []
        for pattern in self._patterns:
            self._user(pattern, line[:MAX_PATTERN_LINE], out)
        if (self._skipping or line.startswith(_CODE_TRIGGERS)) and self._is_source(line):
            return out
        if _HINT.search(line):
            if "{" not in line or not self._dictionary(line, out):
                self._text(line, out)
        elif head := _HEAD.match(line):
            self._bare(line, head, out)
        return out

    def _add(self, out: list[Point], step: int | None, name: str, value: float) -> None:
        if name not in self.final and len(self.final) >= MAX_NAMES:
            self.dropped_names += 1
            return
        self.final[name] = value
        out.append(Point(step, name, value))

    def _is_source(self, line: str) -> bool:
        """Whether the line is printed source or part of a traceback; keeps track of where such a block ends."""
        if line.startswith("[rank"):
            line = _RANK.sub("", line, count=1)
        if line.startswith("Traceback (most recent"):
            self._skipping = "traceback"
            return True
        if self._skipping == "traceback":
            if not line.startswith((" ", "\t")):
                self._skipping = ""  # the exception's own line: its message is no metric either
            return True
        if line.startswith('  File "'):
            return True
        if self._skipping == "code" and not _CODE_LINE.match(line):
            self._skipping = ""
        elif not self._skipping and _CODE_START.match(line):
            self._skipping = "code"
        return bool(self._skipping)

    def _user(self, pattern: re.Pattern[str], line: str, out: list[Point]) -> None:
        for match in pattern.finditer(line):
            groups = match.groupdict()
            printed_step = groups.pop("step", None)
            if printed_step is not None and (value := _number(printed_step.strip(), True)) is not None:
                if math.isfinite(value) and value == int(value):
                    self.step, self._real_step = int(value), True
            if "name" in groups:
                name = groups.pop("name")
                groups[str(name or "").strip()] = groups.pop("value")
            for name, text in groups.items():
                if not name or text is None:
                    continue
                if (value := _number(text.strip().rstrip("%"), True)) is not None:
                    self._add(out, self.step, "_".join(name.split()), value)

    def _take_step(self, word: str, number: int) -> bool:
        """Keep ``number`` as the running step, unless it is only an epoch and real steps are known."""
        if word == "epoch" and self._real_step:
            return False
        self.step = number
        self._real_step = self._real_step or word != "epoch"
        return True

    def _dictionary(self, line: str, out: list[Point]) -> bool:
        start, end = line.find("{"), line.rfind("}")
        if end < start or line[end + 1 :].strip() or (found := _structured(line[start : end + 1])) is None:
            return False
        numbers = list(_flatten(found, ""))
        steps: dict[str, tuple[str, int]] = {}
        for name, value, whole in numbers:
            last = re.split(r"[./]", name)[-1].lower().lstrip("_")
            if last in _STEP_NAMES and value == value and (whole or (last != "epoch" and value == math.trunc(value))):
                steps.setdefault(last, (name, int(value)))
        used = ""
        for word in _STEP_NAMES:
            if word in steps and self._take_step(word, steps[word][1]):
                used = steps[word][0]
                break
        for name, value, _ in numbers:
            counter = re.split(r"[./]", name)[-1].lower().lstrip("_")
            if name != used and (counter not in _STEP_NAMES or counter == "epoch") and name not in self._claimed:
                self._add(out, self.step, "_".join(name.split()), value)
        return True

    def _text(self, line: str, out: list[Point]) -> None:
        if line.startswith(("DEBUG:", "INFO:", "WARNING:", "ERROR:", "CRITICAL:")):
            line = _LOGGING.sub("", line, count=1)
        step, epoch_is_step, floor = self._step_of(line)
        for match in _PAIR.finditer(line):
            floor_before, floor = floor, match.end()
            name, text, unit, sep = match["name"], match["value"], match["unit"], match["sep"]
            follow = _NEXT.match(line, floor)
            word = follow["word"] if follow else ""
            if word.lower() in _UNIT_WORDS and follow:
                floor = follow.end("word")
            elif follow and not follow["pair"] and not unit and ":" in sep and text.lstrip("+-−").replace(",", "").isdigit():
                continue  # "eval: 100 batches" counts batches; it does not measure eval
            low = name.lower()
            if low in _STEP_NAMES and (low != "epoch" or epoch_is_step):
                continue
            start = match.start()
            if start > 1 and line[start - 1] == "[" and (line[start - 2].isalnum() or line[start - 2] in "_])"):
                continue  # x[a:2]
            if not _is_metric(name):
                continue
            value = _number(text, bool(unit) or word.lower() in _UNIT_WORDS)
            if value is None:
                continue
            if not match["q"] and ("_" not in name or "+" in name):
                name = self._lead(line, floor_before, start, tight=len(sep) == 1) + name
            if " " in name or "\t" in name:
                name = "_".join(name.split())
                if not _is_metric(name):
                    continue
            if name not in self._claimed:
                self._add(out, step, name, value)
        if head := _HEAD.match(line):
            self._bare(line, head, out)

    def _step_of(self, line: str) -> tuple[int | None, bool, int]:
        """(step for this line's points, whether an epoch is that step, where names may begin)."""
        epoch: re.Match[str] | None = None
        real: re.Match[str] | None = None
        for match in _STEP.finditer(line):
            if match["word"].lower() == "epoch":
                epoch = epoch or match
            else:
                real = match
                break
        if chosen := real or epoch:
            took = self._take_step("step" if real else "epoch", int(chosen["n"]))
            return self.step, took and real is None, chosen.end() if chosen.start() == 0 else 0
        if bar := _BAR.search(line):
            return int(bar[1]), False, 0
        if counter := _COUNTER.match(line):
            self._take_step("step", int(counter[1]))
            return self.step, False, counter.end()
        return self.step, False, 0

    @staticmethod
    def _lead(line: str, floor: int, start: int, tight: bool) -> str:
        """The words before a name that belong to it: all up to a clean break, else those like ``val`` and ``train``."""
        before = line[max(floor, start - 80) : start]
        if not before or before.isspace():
            return ""
        if start - 80 > floor:
            before = "\0" + before  # not the beginning of anything
        found = _QUALIFIER.search(before) if tight else _LEAD.search(before) or _QUALIFIER.search(before)
        if not found:
            return ""
        words = found[1].split()
        while words and words[0] in _LEVELS:
            words.pop(0)
        return "".join(f"{word}_" for word in words)

    def _bare(self, line: str, head: re.Match[str], out: list[Point]) -> None:
        """``step 12: train loss 3.21, val loss 3.3``: names and values with nothing but a space between them."""
        word = line[: head.start("n")].strip(" \t[:=#").lower()
        self._take_step("epoch" if word == "epoch" else "step", int(head["n"]))
        found: list[tuple[str, float]] = []
        measured = bool(out)
        for piece in _PIECES.split(line[head.end() :]):
            position, here = 0, []
            while match := _BARE.match(piece, position):
                position = match.end()
                words = match["name"].split()
                unit = bool(match["unit"]) or (match["word"] or "").lower() in _UNIT_WORDS
                if (match["word"] and not unit) or _STOP_WORDS.intersection(w.lower() for w in words):
                    break
                name, value = "_".join(words), _number(match["value"], unit)
                if value is not None and _is_metric(name) and words[-1].lower() not in _STEP_NAMES:
                    here.append((name, value))
                    measured = measured or unit or not match["value"].lstrip("+-−").isdigit()
            else:
                if position == len(piece):
                    found += here
        if measured:  # "step 10: saving checkpoint 3" measures nothing
            for name, value in found:
                if name not in self._claimed:
                    self._add(out, self.step, name, value)
