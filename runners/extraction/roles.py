"""What a section is for, from the words of its heading, and what a table is, from its header.

Only general words: nothing here knows a technique, a record or an author. A heading that says nothing known is
"other"; a section without a role of its own has that of the section that holds it.
"""

from __future__ import annotations

import re
from typing import Literal

from runners.extraction.markdown import Document, Section, Table, plain

Role = Literal[
    "changes",  # lists what the record does differently
    "changes:named",  # one change, named by the heading itself after a colon or dash
    "carried",  # lists the whole stack, or what was taken over
    "method",  # tells how it works; what it lists may be new
    "ablation",
    "negative",
    "future",
    "results",
    "ignore",  # compliance, credits, commands, files, hardware, …
    "lead",  # before the first heading below the title
    "other",
]

# The first that fits counts, so what is surely no list of changes comes first.
_WORDS: tuple[tuple[Role, str], ...] = (
    (
        "future",
        r"\b(future|next steps?|would try|i'd try|might work|todo|to do|outlook|open questions?|limitations?)\b",
    ),
    (
        "negative",
        r"(did\s?n['o]?t (work|help)|does\s?n['o]?t (work|help|transfer)|\bwhat failed|\bfailed\b|negative result"
        r"|\bdead ends?\b|\brejected\b|not work|no help|unsuccessful)",
    ),
    (
        "ignore",
        r"\b(complian\w*|legality|rules?|credits?|acknowledge?ments?|references?|related work|citations?"
        r"|requirements?"
        r"|dependencies|install\w*|set-?up|commands?|how to run|run|running|replicat\w*|reproduc\w*|files?"
        r"|hardware"
        r"|environment|data setup|author|licen[cs]e|table of contents|contents|timing|budget|motivation"
        r"|background"
        r"|why .{0,60}|lineage|notes?|log files|public artifacts|rebuilding|checklist|verification"
        r"|known bug|bug fix in|thanks|disclosure|timeline|appendix|checks?|sanity|implementation notes?"
        r"|other small changes|space savings|comparison|included|excluded|omitted|unused|not used|usage|quick ?start"
        r"|license)\b",
    ),
    (
        "changes",
        r"\b(what changed|what'?s new|what is new|changes?|summary of changes|key techniques?|techniques"
        r"|innovations?"
        r"|contributions?|improvements?|modifications?|what this (submission|record|pr|run|work) (adds"
        r"|changes)|adds"
        r"|additions?|additional changes|simplifications?|fixes|new (features|techniques)|key ideas?"
        r"|novelt(y|ies)"
        r"|hyper-?parameter (stack|overrides|changes)|overrides|tuned hyper-?parameters|differences?"
        r"|what i changed"
        r"|what we changed|deltas?|what worked|what works|what helps)\b",
    ),
    (
        "ablation",
        r"\b(ablations?|analysis|sweeps?|experiments?|experiment log|breakdown|run log|exploration|grid)\b",
    ),
    (
        "results",
        r"\b(results?|significance|statistics|scores?|metrics?|headline|reproducibility|diagnostics|seeds?"
        r"|performance|evaluation results|curve"
        r"|curves|summary table|head-to-head|leaderboard|variance)\b",
    ),
    (
        "carried",
        r"\b(carried|inherited|unchanged|full stack|stack|base(line)? (architecture|stack|model)"
        r"|architecture|training"
        r"|quantization|quantisation|optimi[sz]ers?|hyper-?parameters?|config\w*|compression|model"
        r"|tokenizer|evaluation"
        r"|ttt|parameters?|export|serialization|schedule|pipeline|protocol)\b",
    ),
    (
        "method",
        r"\b(methods?|approach(es)?|summary|overview|how it works|how we|under the hood|main idea|idea"
        r"|description"
        r"|implementation|details|insights?|findings?|discover(y|ies)|learned|the fix|strategy|recipe)\b",
    ),
)
_ROLES = tuple((each, re.compile(pattern, re.I)) for each, pattern in _WORDS)

_NAMED = re.compile(
    r"\b(?:key |main |novel |original |new |core |primary |technical |architecture )*"
    r"(?:innovation|contribution|change|idea|technique|improvement|novelty|modification|addition)"
    r"(?:\s\([^()]{1,40}\))?\s?(?::|—|–|--|-)\s(.{3,200})$",
    re.I,
)
_NUMBERED = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[A-Z][.)])\s+")
_TITLE_WORDS = re.compile(
    r"^\W*(?:notable\s|new\s|official\s)?(?:non-?record|record)(?:\s(?:submission|candidate|track))*\W*\s", re.I
)


def heading(section: Section) -> str:
    """The words of a heading without mark-up and number."""
    return _NUMBERED.sub("", plain(section.title)).strip(" :")


def is_numbered(section: Section) -> bool:
    return _NUMBERED.match(plain(section.title)) is not None


def named(text: str) -> str | None:
    """The change that a heading names: "Key Innovation: X" -> "X"."""
    found = _NAMED.search(text)
    return found[1].strip() if found else None


def role(text: str) -> Role:
    """What a section with this heading is for."""
    text = text[-60:] if len(text) > 120 else text
    change = named(text)
    if change is not None:
        return "changes:named"
    for each, pattern in _ROLES:
        if pattern.search(text):
            return each
    return "other"


def title(document: Document) -> tuple[str, int] | None:
    """The title and its line: the first heading, where nothing but a sentence stands before it."""
    for section in document.sections[:2]:
        if section.title and section.level <= 2:
            return _TITLE_WORDS.sub("", plain(section.title)).strip(), section.line
    return None


def roles(document: Document) -> list[Role]:
    """The role of each section; one without its own has that of the nearest section that holds it."""
    found: list[Role] = []
    has_title = False
    for index, section in enumerate(document.sections):
        if index == 0 and (not section.title or _is_title(document)):
            found.append("lead")
            has_title = bool(section.title)
            continue
        own = role(heading(section)) if section.title else "other"
        if own == "other":
            held = [found[parent] for parent in section.parents if not (has_title and parent == 0)]
            if held and held[-1] not in ("lead", "other", "changes:named"):
                own = "changes" if held[-1] == "method" and is_numbered(section) else held[-1]
        else:
            held = [found[parent] for parent in section.parents if not (has_title and parent == 0)]
            strong = ("negative", "future", "ignore") + (
                ("changes", "ablation") if own in ("carried", "method") else ()
            )
            if held and held[-1] == "method" and is_numbered(section) and own in ("carried", "method"):
                own = "changes"
            elif held and (held[-1] in strong or (section.level == 7 and held[-1] == "carried" and own == "changes")):
                own = held[-1]
        found.append(own)
    return found


def _is_title(document: Document) -> bool:
    """The first heading is a title: no other stands above it, and it is no section's name."""
    first = document.sections[0]
    rest = [section.level for section in document.sections[1:]]
    if not first.title or first.line > 12:
        return False
    if first.level == 1 or (rest and first.level < min(rest)):
        return True
    return role(heading(first)) == "other" and named(heading(first)) is None


# ── tables ──

_BPB = re.compile(r"(?<![a-z])(?:val[_ ]?)?(?:var[_ ]?)?(?:[a-z_]*_)?(?:m?bp[bp])(?![a-z])", re.I)
_NATS = re.compile(r"\bnats?\b|val[_ ]?loss", re.I)
_DELTA = re.compile(
    r"δ|∆|Δ|\bdelta\b|\bimpact\b|\beffect\b|\bimprovement\b|\bgain\b|\bdiff(?:erence)?\b|\bchange in\b"
    r"|\bcontribution\b"
)
_THIS = re.compile(
    r"^(?:this(?:\s(?:pr|submission|record|run|work|entry|version))?|ours?|new|after|proposed|current pr|here)\b",
    re.I,
)
_BASE = re.compile(r"(?:the )?(?:anchor|parent|base(?:line)?|before|previous)(?: (?:run|record|stack))?", re.I)
_SOURCE = re.compile(
    r"^(?:source|origin|from|first introduced(?: by)?|introduced by|credit|pr|reference|author)s?$", re.I
)


def is_bpb(header: str) -> bool:
    text = plain(header)
    return _BPB.search(text) is not None and not is_delta(header)


def is_delta(header: str) -> bool:
    text = plain(header)
    return _DELTA.search(text.lower()) is not None and not re.search(
        r"\bttt gain\b|time|size|bytes|winner", text, re.I
    )


def delta_unit(header: str) -> str:
    """The unit that a delta column's header gives: bpb, mbpb, nats or none."""
    text = plain(header).lower()
    if re.search(r"mbp[bp]", text):
        return "mbpb"
    if _BPB.search(text):
        return "bpb"
    return "nats" if _NATS.search(text) else ""


def seed_column(table: Table) -> int | None:
    for index, cell in enumerate(table.header):
        if re.fullmatch(r"(random )?seed( #)?", plain(cell).lower()):
            return index
    return None


def base_and_this(table: Table) -> tuple[int, int] | None:
    """The columns of base and of this record in a comparison of the two."""
    cells = [plain(cell).strip(" *") for cell in table.header]
    if seed_column(table) is not None or len(cells) < 3:
        return None
    for index, cell in enumerate(cells[1:], 1):
        if _THIS.match(cell):
            others = [each for each in range(1, len(cells)) if each != index and not is_delta(cells[each])]
            if index == 1 and others:  # This | Base
                return others[0], index
            return index - 1 if index > 1 else 0, index
    if len(cells) == 3 and _BASE.fullmatch(cells[1]) and not _tells_figures(table, 2):
        return 1, 2  # the last column goes by this record's own name
    return None


def _tells_figures(table: Table, column: int) -> bool:
    """Whether a column holds scores or differences, or says that it does without a row of plain words."""
    cells = [plain(row.cells[column]) for row in table.rows]
    return is_bpb(table.header[column]) or any(re.match(r"\W{0,3}\d*\.\d{3}", cell) for cell in cells)


def value_and_default(table: Table) -> tuple[int, int] | None:
    """The columns (default, value) of a table of changed settings."""
    cells = [plain(cell).lower() for cell in table.header]
    default = next(
        (
            i
            for i, cell in enumerate(cells)
            if re.fullmatch(r"(old |the )?(default|base|baseline|old|before|previous|was|from)( value)?", cell)
        ),
        None,
    )
    value = next(
        (
            i
            for i, cell in enumerate(cells)
            if i and re.fullmatch(r"(new |our )?(value|new|this|after|ours|now|to|setting|tuned)( value)?", cell)
        ),
        None,
    )
    if default is None or value is None or default == 0:
        return None
    return default, value


def source_column(table: Table) -> int | None:
    for index, cell in enumerate(table.header):
        if index and _SOURCE.match(plain(cell).strip()):
            return index
    return None


def is_components(table: Table) -> bool:
    """Component | Setting, Technique | Origin: the stack, a row a part."""
    first = plain(table.header[0]).lower() if table.header else ""
    return re.fullmatch(r"components?|techniques?|parts?|elements?|features?", first) is not None


def is_metrics(table: Table) -> bool:
    """Metric | Value: no row is a change."""
    first = plain(table.header[0]).lower() if table.header else ""
    return (
        re.search(r"\b(metric|parameter|item|phase|quantity|property|file|statistic|hparam)s?\b", first) is not None
    )
