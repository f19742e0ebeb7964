"""What a record did: its new techniques and those that it carries, as often as they are told.

Candidates come from the places where READMEs tell changes: tables; headings, list items and bold paragraphs of
sections about changes; and, only where there is none of these, the title, the lead and, without a base, the parts
of the description that name known techniques. `candidates.merged` makes one row of all tellings of a technique.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from runners.extraction import items, roles, tables, techniques
from runners.extraction.candidates import REMOVED, Candidate, tell
from runners.extraction.markdown import Block, Document, Section, Table, bold_head, plain
from runners.extraction.vocabulary import Vocabulary


class Reading(NamedTuple):
    candidates: list[Candidate]
    effects: bool  # a table with an effect a row
    compared: bool  # a table base | this or value | default


_MARKED_NEW = re.compile(r"\bNEW\b|\(new\)|this (work|submission|pr)\b|\bnovel\b")
_CARRIED_TEXT = re.compile(
    r"^\W{0,3}(already (present|in)|carried (over|from)|unchanged|same as|inherited|kept from|identical)\b", re.I
)
_DID_NOT_HELP = re.compile(
    r"\b(did(n't| not) help|not worth|hurts?|hurt quality|catastroph\w+|abandoned|no benefit|more than offsets"
    r"|harmful|worse)\b",
    re.I,
)
_NEGATIVE = re.compile(
    r"\bnegative result|\bdid not help\b|\bdidn't help\b|\bno improvement\b|\bdoes not help\b", re.I
)
_SEVERAL = re.compile(
    r"\b(changes?|improvements?|modifications?|techniques?|innovations?|contributions?|things|additions?)\b", re.I
)
_FINDING = re.compile(
    r"\b(is|are|gets?|learns?|has|have|benefits?|beats?|helps?|matters?|inverts?|wins?|fails?|harmful|hurts?"
    r"|doesn't|didn't)\b",
    re.I,
)
_TITLE_END = re.compile(r"\s(?:—|–|--)\s|:\s|\s\(|\bval[_ ]bpb")
_EVALUATION = ("evaluation", "test_time_training")
_TRAINING_SAME = re.compile(
    r"\btraining\b[^.]{0,40}\b(is |are )?(identical|unchanged|the same)\b|\bsame training\b"
    r"|\bidentical training\b|training is unchanged",
    re.I,
)
_PORT = re.compile(
    r"\b(?:port(?:s|ed)?(?: over)?|add(?:s|ed|ing)?|introduc(?:es?|ed|ing)|combin(?:es?|ed|ing)|re-added"
    r"|implements?)\b([^.;:]{3,300})",
    re.I,
)
_MOVED = re.compile(
    r"(?:\b(?:bump(?:ed|ing)|shr[au]nk|shrinking|rais(?:ed|ing)|lower(?:ed|ing)|reduc(?:ed|ing)"
    r"|increas(?:ed|ing)|decreas(?:ed|ing)|and)"
    r"(?:\sthe)?\s)((?:`[A-Z][A-Z0-9_]{2,40}`)|(?:[A-Za-z][\w-]{1,20}\s){0,2}[A-Za-z][\w-]{1,20})\sfrom\s"
    r"`?([~]?\d[\d.,]{0,12}[kKx]?)`?\s(?:to|->|→)\s`?([~]?\d[\d.,]{0,12}[kKx]?)`?(?!\s?(?:ms|%|bpb|bpp|s\b"
    r"|mb|kb))",
    re.I,
)


def read(document: Document, found: list[roles.Role], vocabulary: Vocabulary, has_base: bool) -> Reading:
    """All candidates of a README, in the order of the text."""
    reader = _Reader(document, found, vocabulary, [])
    effects = compared = False
    for index, section in enumerate(document.sections):
        if found[index] in ("ignore", "future", "negative"):
            continue
        for block in section.blocks:
            if block.table is not None:
                kind = reader.table(index, block.table)
                effects |= kind == "effect"
                compared |= kind == "compared"
        reader.section(index)
    if not any(each.status == "new" and each.rank <= 5 for each in reader.candidates):
        reader.fallback(has_base)
    else:
        reader.candidates[:] = [each for each in reader.candidates if each.rank < 9]
        if not has_base:
            reader.title(8)
            reader.described(("method",), 9)
    candidates = reader.candidates
    if _TRAINING_SAME.search(_prose(document)):
        candidates = [
            each._replace(status="carried")
            if each.technique is not None and each.technique.kind not in _EVALUATION and each.rank >= 6
            else each
            for each in candidates
        ]
    return Reading(candidates, effects, compared)


def _prose(document: Document) -> str:
    return " ".join(
        plain(block.text)[:600]
        for section in document.sections[:12]
        for block in section.blocks
        if block.kind in ("paragraph", "item")
    )[:12000]


class _Reader(NamedTuple):
    document: Document
    purpose: list[roles.Role]
    vocabulary: Vocabulary
    candidates: list[Candidate]

    def new_ids(self) -> set[str]:
        """The techniques that the text has called new so far."""
        return {each.technique.id for each in self.candidates if each.technique is not None and each.status == "new"}

    def table(self, index: int, table: Table) -> tables.Kind:
        """Take in the candidates of one table; returns what kind of table it was."""
        found = tables.read(table, self.purpose[index], self.vocabulary, self.new_ids)
        self.candidates.extend(found.candidates)
        return found.kind

    # ── headings, lists, paragraphs ──

    def section(self, index: int) -> None:
        section, role = self.document.sections[index], self.purpose[index]
        words = roles.heading(section)
        under = self._under_technique(index)
        if role == "changes:named":
            self._named(index, words)
        elif role == "changes":
            if self._is_technique(index):
                if section.level < 7 and not under:
                    self._heading(index, words)
                    self._settings(section)
            elif not under:
                self._listed(section, index)
        elif role == "carried":
            self._listed(section, index, carried=True)
        if role in ("other", "method", "carried") and section.title and 1 < section.level < 7 and not under:
            self._known_heading(index, words)

    def _under_technique(self, index: int) -> bool:
        """Whether a heading above names a technique itself, so that what stands here describes it."""
        return any(
            self.purpose[parent] == "changes:named" or self._is_technique(parent)
            for parent in self.document.sections[index].parents
        )

    def _is_technique(self, index: int) -> bool:
        """Whether a heading in a section of changes is one of the changes, rather than a name for some of them."""
        section = self.document.sections[index]
        if self.purpose[index] != "changes" or not index or not section.title:
            return False
        words = roles.heading(section)
        if section.level == 7:
            return self.vocabulary.find(words[-25:]) is not None and _SEVERAL.search(words) is None
        general = roles.role(words) == "changes" and not roles.is_numbered(section)
        return not general and not techniques.is_category(words)

    def _named(self, index: int, words: str) -> None:
        label = roles.named(words) or words
        section = self.document.sections[index]
        self.candidates.extend(tell(self.vocabulary, label, "new", 3, section.line, self._told(index)))
        self._settings(section)

    def _heading(self, index: int, words: str) -> None:
        section = self.document.sections[index]
        if techniques.is_none(techniques.clean(words)):
            return
        if techniques.naming(techniques.clean(words), self.vocabulary) is None and self._listed_settings(section):
            return
        self.candidates.extend(tell(self.vocabulary, words, "new", 3, section.line, self._told(index)))

    def _known_heading(self, index: int, words: str) -> None:
        """A heading outside of the lists of changes that is nothing but the name of a known technique."""
        section, told = self.document.sections[index], self._told(index)
        if (
            len(words) > 90
            or not techniques.only_names(words, self.vocabulary)
            or techniques.is_none(techniques.clean(words))
        ):
            return
        found = [each for each in techniques.parts(words, self.vocabulary) if each.technique is not None]
        if _DID_NOT_HELP.search(told[:800]) is not None:
            return
        rank = 6 if self.purpose[index] in ("other", "method") and section.level == 2 else 9
        for each in found:
            self.candidates.append(
                Candidate(each.label, each.technique, "new", rank, section.line, told, joint=len(found) > 1)
            )

    def _told(self, index: int) -> str:
        """The words below a heading: its own and those of the headings below it."""
        texts = []
        level = self.document.sections[index].level
        for at in range(index, len(self.document.sections)):
            section = self.document.sections[at]
            if at > index and section.level <= level:
                break
            texts += [plain(block.text) for block in section.blocks[:60] if block.kind in ("paragraph", "item")]
            if len(texts) > 120:
                break
        return "\n".join(texts)[:6000]

    def _ported(self, block: Block) -> None:
        """A sentence of the lead that says what was added names known techniques."""
        for clause in _PORT.finditer(plain(block.text)):
            text = re.split(
                r"\b(?:to|on top of|onto|over|on)\s(?:the|this|pr|our|a)\b|\bfrom\s(?:the\s)?pr\b",
                clause[1],
                maxsplit=1,
                flags=re.I,
            )[0]
            for mention in self.vocabulary.mentions(text):
                label = text[mention.start : mention.end]
                self.candidates.append(Candidate(label, mention.technique, "new", 8, block.first, clause[0]))

    def _listed(self, section: Section, index: int | None = None, carried: bool = False) -> None:
        """The items and bold paragraphs of a section that lists changes, or the stack."""
        groups = items.grouped(section.blocks)
        procedure = not carried and items.is_procedure([head for head, _ in groups.values()])
        described = self._goes_on(index)  # what follows a bold run-in name describes it
        for at, block in enumerate(section.blocks):
            if at in groups and not procedure and not described:
                head, nested = groups[at]
                if self._is_umbrella(head) and sum(self._names(each) for each in nested) >= 2:
                    for each in nested:
                        self._item(each, "", carried)
                else:
                    self._item(head, " ".join(plain(each.text) for each in nested[:20]), carried)
            elif block.kind == "paragraph" and not carried:
                run_in = bold_head(block.text)
                if run_in is not None and items.is_run_in(run_in, block.text):
                    described = self._paragraph(section, at, block, run_in) or described

    def _goes_on(self, index: int | None) -> bool:
        """Whether a list below a line with a colon belongs to a bold run-in name above that line."""
        if index is None or self.document.sections[index].level < 7:
            return False
        if roles.role(roles.heading(self.document.sections[index])) == "changes":
            return False
        for at in range(index - 1, max(-1, index - 6), -1):
            above = self.document.sections[at]
            for block in reversed(above.blocks):
                head = bold_head(block.text) if block.kind == "paragraph" else None
                if head is not None and items.is_run_in(head, block.text):
                    return True
            if above.level < 7:
                return False
        return False

    def _is_umbrella(self, block: Block) -> bool:
        label, _ = items.label_of(block.text)
        return re.search(r":\W*$", plain(block.text)) is not None or self.vocabulary.find(label) is None

    def _names(self, block: Block) -> bool:
        label, _ = items.label_of(block.text)
        return self.vocabulary.find(label) is not None

    def _item(self, block: Block, more: str, carried: bool) -> None:
        text = plain(block.text)
        label, rest = items.label_of(block.text)
        told = f"{rest} {more}".strip()
        new = _MARKED_NEW.search(text) is not None
        if carried and not new:
            if items.is_step(block, text):
                return
            for piece in items.stack(text):
                technique = techniques.naming(piece, self.vocabulary)
                if technique is not None:
                    self.candidates.append(
                        Candidate(techniques.clean(piece), technique, "carried", 8, block.first, text)
                    )
            return
        if techniques.is_none(techniques.clean(label)) and not techniques.settings(block.text):
            return
        if _NEGATIVE.search(rest[:160]) is not None:
            return
        known = self.vocabulary.find(techniques.clean(label)) is not None
        told_settings = techniques.settings(text)
        none = techniques.is_none(techniques.clean(label))
        if not known and told_settings:
            short = techniques.settings(text, short=True)
            usual = [each for each in short if techniques.naming(each.name, self.vocabulary)]
            told_settings = usual or (told_settings if none or techniques.settings(label) else [])
        if not known and len(told_settings) >= (1 if none else 2) and self._settings_of(block, told_settings):
            return
        if none:
            return
        if known and len(told_settings) >= 2 and not techniques.settings(label):
            named = ", ".join(f"{each.name}={each.value}" for each in told_settings[:4])
            label = f"{label.strip(' :.')}: {named}"  # the name of several settings keeps them
        self.candidates.extend(
            tell(
                self.vocabulary,
                label,
                "carried" if _CARRIED_TEXT.search(rest) else "new",
                4,
                block.first,
                told,
                whole=text,
            )
        )
        self._moved(block)

    def _paragraph(self, section: Section, at: int, block: Block, head: tuple[str, str]) -> bool:
        following = []
        for each in section.blocks[at + 1 : at + 60]:
            if each.kind == "paragraph" and bold_head(each.text) is not None:
                break
            following.append(each)
        label = head[0].strip(" :.")
        if techniques.is_none(techniques.clean(label)) or techniques.is_category(techniques.clean(label)):
            return False
        told = " ".join(
            [plain(head[1]), *(plain(each.text) for each in following if each.kind in ("paragraph", "item"))]
        )
        inner = Section(section.title, section.level, section.line, section.parents, tuple(following))
        if techniques.naming(techniques.clean(label), self.vocabulary) is None and self._listed_settings(inner):
            return True
        self.candidates.extend(tell(self.vocabulary, label, "new", 4, block.first, told))
        self._moved(block)
        return True

    def _listed_settings(self, section: Section) -> bool:
        """The items that begin with NAME=VALUE and say what it was, under a heading that names nothing known."""
        found = False
        for block in section.blocks:
            if block.kind == "item":
                told = techniques.settings(plain(block.text))
                if told and told[0].start <= 1:
                    found = self._settings_of(block, told[:1]) or found
        return found

    def _settings(self, section: Section) -> None:
        """Settings with their old value, in the words below a heading that names a change."""
        for block in section.blocks:
            if block.kind in ("paragraph", "item"):
                self._moved(block)

    def _settings_of(self, block: Block, told: list[techniques.Setting]) -> bool:
        for each in told:
            label = f"{each.name}={each.value}"
            technique = techniques.naming(label, self.vocabulary)
            self.candidates.append(
                Candidate(label, technique, "new", 5, block.first, plain(block.text), each.before, each.value)
            )
        return bool(told)

    def _moved(self, block: Block) -> None:
        """bumped `NAME` from A to B: a change of its own, where the name is known or a setting."""
        for found in _MOVED.finditer(block.text[:4000]):
            name = found[1].strip("`")
            technique = techniques.naming(name, self.vocabulary)
            if technique is None and not found[1].startswith("`"):
                continue
            before, after = found[2].rstrip(".,"), found[3].rstrip(".,")
            self.candidates.append(Candidate(name, technique, "new", 7, block.first, "", before, after))

    # ── where no change is told ──

    def fallback(self, has_base: bool) -> None:
        """No list of changes: the title and the lead, and without a base the known parts of the description."""
        self.title(7)
        for section in self.document.sections[:1]:
            for block in section.blocks:
                if block.kind == "paragraph":
                    self._ported(block)
        if not has_base:
            self.described(("method", "carried", "other", "lead"), 7)

    def described(self, wanted: tuple[roles.Role, ...], rank: int) -> None:
        """Known techniques that stand in bold before a description, or as plain items of an approach."""
        for index, section in enumerate(self.document.sections):
            if self.purpose[index] not in wanted or self._under_technique(index):
                continue
            for block in section.blocks:
                head = bold_head(block.text) if block.kind in ("item", "paragraph") else None
                if head is not None and len(head[0]) < 90:
                    self._add_known(head[0], block.first, block.text, rank)
                elif block.kind == "item" and self.purpose[index] == "method" and block.number is None:
                    label, _ = items.label_of(block.text)
                    if re.match(r"^~?\d", label) is None:
                        self._add_known(label, block.first, block.text, rank)

    def _add_known(self, label: str, line: int, text: str, rank: int) -> None:
        label = techniques.clean(label)
        if techniques.is_none(label) or techniques.is_category(label) or _FINDING.search(label):
            return
        for each in techniques.parts(label, self.vocabulary):
            absent = REMOVED.match(each.label) is not None and (
                each.technique is None or each.technique.id != "byte-level"
            )
            if each.technique is not None and not each.technique.weak and not absent:
                self.candidates.append(Candidate(each.label, each.technique, "new", rank, line, plain(text)))

    def title(self, rank: int) -> None:
        """The techniques that the title, the name in the first sentence or the bold line below the title lists."""
        told: list[tuple[str, int]] = []
        stacks: list[tuple[str, int]] = []
        title = roles.title(self.document)
        if title is not None:
            told.append((_TITLE_END.split(title[0])[0], title[1]))
        for block in self.document.sections[0].blocks[:4]:
            if block.kind != "paragraph":
                continue
            called = re.search(r"\b(?:called|captures(?: the)?)\s`([^`]{3,80})`", block.text)
            if called is not None:
                told.append((called[1], block.first))
            if block.text.startswith("**") and block.text.count(" + ") >= 3:
                stacks.append((plain(block.text), block.first))
        for text, line, rank in [*((*each, rank) for each in told), *((*each, 7) for each in stacks)]:
            for piece in techniques.outside_brackets(text):
                label = techniques.clean(piece)
                technique = techniques.naming(label, self.vocabulary)
                if technique is not None:
                    self.candidates.append(Candidate(label, technique, "new", rank, line, ""))
