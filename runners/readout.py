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

import re
from collections.abc import Sequence

import msgspec

from runners.figures import (
    ANSI,
    BAR,
    BARE,
    CODE_LINE,
    CODE_START,
    CODE_TRIGGERS,
    COUNTER,
    DEVICES,
    HEAD,
    HINT,
    LEAD,
    LEVELS,
    LOGGING,
    NEXT,
    PAIR,
    PIECES,
    QUALIFIER,
    RANK,
    STEP,
    STEP_NAMES,
    STOP_WORDS,
    UNIT_WORDS,
    compile_pattern,
    flatten,
    is_metric,
    number,
    structured,
)

EXTRACTOR = "readout/1"
"""Name and version of this reading; recorded with what it read, so that it can be replayed from the kept text."""

MAX_LINE = 64 << 10  # characters of a line that are looked at
MAX_PATTERN_LINE = 2 << 10  # characters that a user's pattern sees: a slow regex stays slow, not endless
MAX_NAMES = 4096  # distinct names in one run: a program that prints a name per item must not fill memory


class Point(msgspec.Struct, frozen=True):
    """One number as printed: the step it belongs to (None before any), its name, its value (may be NaN, inf)."""

    step: int | None
    name: str
    value: float


_COUNT = re.compile(r"[\d,]+")


def _whole(value: float | None) -> int | None:
    """The step that a number is: whole, and small enough for any table."""
    return int(value) if value is not None and abs(value) < 2**53 and value == int(value) else None


class Readout:
    """Reads one stream. ``feed`` a line at a time; ``last`` and ``final`` hold what each name ended with.

    Use one for stdout and another for stderr: the running step belongs to a stream.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = [compile_pattern(p) for p in patterns]
        self._claimed = {g for p in self._patterns for g in p.groupindex} - {"name", "value", "step"}
        self.last: dict[str, Point] = {}  # the last point of each name, in order of first sight
        self.step: int | None = None
        self.dropped_names = 0  # points left out because MAX_NAMES names were already known
        self._real_step = False  # a step other than an epoch was seen
        self._skipping = ""  # "code" inside printed source, "traceback" inside a traceback

    @property
    def final(self) -> dict[str, float]:
        """The last value of each name: what the run ended with."""
        return {name: point.value for name, point in self.last.items()}

    @property
    def seen(self) -> tuple[str, ...]:
        """Every metric name read so far, in order of first sight."""
        return tuple(self.last)

    def feed(self, line: str) -> list[Point]:
        """The points that this line prints, left to right; an empty list for most lines of most programs."""
        if len(line) > MAX_LINE:
            line = line[:MAX_LINE]
        if "\r" in line:
            # A terminal shows the last rewriting of the line, and so do we.
            line = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        if "\x1b" in line:
            line = ANSI.sub("", line)
        line = line.rstrip("\n")
        out: list[Point] = []
        for pattern in self._patterns:
            self._user(pattern, line[:MAX_PATTERN_LINE], out)
        if (self._skipping or line.startswith(CODE_TRIGGERS)) and self._is_source(line):
            return out
        if HINT.search(line):
            if "{" not in line or not self._dictionary(line, out):
                self._text(line, out)
        elif head := HEAD.match(line):
            self._bare(line, head, out)
        return out

    def _add(self, out: list[Point], step: int | None, name: str, value: float) -> None:
        if name not in self.last and len(self.last) >= MAX_NAMES:
            self.dropped_names += 1
            return
        self.last[name] = point = Point(step, name, value)
        out.append(point)

    def _is_source(self, line: str) -> bool:
        """Whether the line is printed source or part of a traceback; keeps track of where such a block ends."""
        if line.startswith("[rank"):
            line = RANK.sub("", line, count=1)
        if line.startswith("Traceback (most recent"):
            self._skipping = "traceback"
            return True
        if self._skipping == "traceback":
            if not line.startswith((" ", "\t")):
                self._skipping = ""  # the exception's own line: its message is no metric either
            return True
        if line.startswith('  File "'):
            return True
        if self._skipping == "code" and not CODE_LINE.match(line):
            self._skipping = ""
        elif not self._skipping and CODE_START.match(line):
            self._skipping = "code"
        return bool(self._skipping)

    def _user(self, pattern: re.Pattern[str], line: str, out: list[Point]) -> None:
        for match in pattern.finditer(line):
            groups = match.groupdict()
            printed_step = groups.pop("step", None)
            if printed_step is not None and (step := _whole(number(printed_step.strip(), True))) is not None:
                self.step, self._real_step = step, True
            if "name" in groups:
                name = groups.pop("name")
                groups[str(name or "").strip()] = groups.pop("value")
            for name, text in groups.items():
                if not name or text is None:
                    continue
                if (value := number(text.strip().rstrip("%"), True)) is not None:
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
        if end < start or line[end + 1 :].strip() or (found := structured(line[start : end + 1])) is None:
            return False
        numbers = list(flatten(found, ""))
        steps: dict[str, tuple[str, int]] = {}
        for name, value, whole in numbers:
            last = re.split(r"[./]", name)[-1].lower().lstrip("_")
            if last in STEP_NAMES and (whole or last != "epoch") and (step := _whole(value)) is not None:
                steps.setdefault(last, (name, step))
        used = ""
        for word in STEP_NAMES:
            if word in steps and self._take_step(word, steps[word][1]):
                used = steps[word][0]
                break
        for name, value, _ in numbers:
            counter = re.split(r"[./]", name)[-1].lower().lstrip("_")
            if name != used and (counter not in STEP_NAMES or counter == "epoch") and name not in self._claimed:
                self._add(out, self.step, "_".join(name.split()), value)
        return True

    def _text(self, line: str, out: list[Point]) -> None:
        if line.startswith(("DEBUG:", "INFO:", "WARNING:", "ERROR:", "CRITICAL:")):
            line = LOGGING.sub("", line, count=1)
        step, epoch_is_step, floor = self._step_of(line)
        for match in PAIR.finditer(line):
            floor_before, floor = floor, match.end()
            name, text, unit, sep = match["name"], match["value"], match["unit"], match["sep"]
            follow = NEXT.match(line, floor)
            word = follow["word"] if follow else ""
            if word.lower() in UNIT_WORDS and follow:
                floor = follow.end("word")
            elif word and follow and not follow["pair"] and not unit and ":" in sep and _COUNT.fullmatch(text):
                continue  # "eval: 100 batches" counts batches; it does not measure eval
            low = name.lower()
            if low in STEP_NAMES and (low != "epoch" or epoch_is_step):
                continue
            start = match.start()
            if start > 1 and line[start - 1] == "[" and (line[start - 2].isalnum() or line[start - 2] in "_])"):
                continue  # x[a:2]
            if not is_metric(name) or (low in DEVICES and sep == ":" and text.isdigit()):
                continue
            value = number(text, bool(unit) or word.lower() in UNIT_WORDS)
            if value is None:
                continue
            if not match["q"] and ("_" not in name or "+" in name):
                name = self._lead(line, floor_before, start, tight=len(sep) == 1) + name
            if " " in name or "\t" in name:
                name = "_".join(name.split())
                if not is_metric(name):
                    continue
            if name not in self._claimed:
                self._add(out, step, name, value)
        if head := HEAD.match(line):
            self._bare(line, head, out)

    def _step_of(self, line: str) -> tuple[int | None, bool, int]:
        """(step for this line's points, whether an epoch is that step, where names may begin)."""
        epoch: re.Match[str] | None = None
        real: re.Match[str] | None = None
        for match in STEP.finditer(line):
            if match["word"].lower() == "epoch":
                epoch = epoch or match
            else:
                real = match
                break
        if chosen := real or epoch:
            took = self._take_step("step" if real else "epoch", int(chosen["n"]))
            return self.step, took and real is None, chosen.end() if chosen.start() == 0 else 0
        if bar := BAR.search(line):
            return int(bar[1]), False, 0
        if counter := COUNTER.match(line):
            self._take_step("step", int(counter[1]))
            return self.step, False, counter.end()
        return self.step, False, 0

    @staticmethod
    def _lead(line: str, floor: int, start: int, tight: bool) -> str:
        """The words before a name that belong to it: all from a clean break on, else those like ``val``."""
        before = line[max(floor, start - 80) : start]
        if not before or before.isspace():
            return ""
        if start - 80 > floor:
            before = "\0" + before  # not the beginning of anything
        found = QUALIFIER.search(before) if tight else LEAD.search(before) or QUALIFIER.search(before)
        if not found:
            return ""
        words = found[1].split()
        while words and words[0] in LEVELS:
            words.pop(0)
        return "".join(f"{word}_" for word in words)

    def _bare(self, line: str, head: re.Match[str], out: list[Point]) -> None:
        """``step 12: train loss 3.21, val loss 3.3``: names and values with nothing but a space between them."""
        word = line[: head.start("n")].strip(" \t[:=#").lower()
        self._take_step("epoch" if word == "epoch" else "step", int(head["n"]))
        found: list[tuple[str, float]] = []
        measured = bool(out)
        for piece in PIECES.split(line[head.end() :]):
            position, here = 0, []
            while match := BARE.match(piece, position):
                position = match.end()
                words = match["name"].split()
                unit = bool(match["unit"]) or (match["word"] or "").lower() in UNIT_WORDS
                if (match["word"] and not unit) or STOP_WORDS.intersection(w.lower() for w in words):
                    break
                name, value = "_".join(words), number(match["value"], unit)
                if value is not None and is_metric(name) and words[-1].lower() not in STEP_NAMES:
                    here.append((name, value))
                    measured = measured or unit or not match["value"].lstrip("+-−").isdigit()
            else:
                if position == len(piece):
                    found += here
        if measured:  # "step 10: saving checkpoint 3" measures nothing
            for name, value in found:
                if name not in self._claimed:
                    self._add(out, self.step, name, value)
