"""Shapes of access tokens that must never enter the log: what is appended stays for ever.

A shape is listed only when it is unmistakable (a fixed prefix and a length), so that a refusal is
always right. This is a net under the allow-list of captured variables, not a replacement for it.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class _Shape(NamedTuple):
    kind: str
    anchors: tuple[bytes, ...]  # a cheap substring test: an event of 300 bytes is cleared in 1 µs
    pattern: re.Pattern[bytes]


_SHAPES = tuple(
    _Shape(kind, tuple(anchor.encode() for anchor in anchors.split()), re.compile(pattern))
    for kind, anchors, pattern in [
        ("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", rb"gh[pousr]_[A-Za-z0-9]{36,}"),
        ("GitHub token", "github_pat_", rb"github_pat_[A-Za-z0-9_]{60,}"),
        ("Hugging Face token", "hf_", rb"hf_[A-Za-z0-9]{30,}"),
        ("OpenAI or Anthropic key", "sk-", rb"\bsk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{32,}"),
        ("AWS access key", "AKIA ASIA", rb"\bA[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("Google API key", "AIza", rb"AIza[A-Za-z0-9_-]{35}"),
        ("Slack token", "xox", rb"xox[abposr]-[A-Za-z0-9-]{20,}"),
        ("GitLab token", "glpat-", rb"glpat-[A-Za-z0-9_-]{20,}"),
        ("PyPI token", "pypi-", rb"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}"),
        ("npm token", "npm_", rb"\bnpm_[A-Za-z0-9]{36}"),
        (
            "Weights & Biases key",
            "WANDB_API_KEY wandb_api_key",
            rb"(?i:wandb_api_key)\W{1,30}[0-9a-f]{40}",
        ),
        (
            "private key",
            "PRIVATE",
            rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[\s\S]{0,16000}?-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
        ),
        ("JSON web token", "eyJ", rb"eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
        ("password in a URL", "://", rb"://[^\s/:@'\"]{1,80}:[^\s/@'\"]{3,200}@[A-Za-z0-9]"),
    ]
)


_ANCHORED = tuple((anchor, shape) for shape in _SHAPES for anchor in shape.anchors)


def find(data: str | bytes) -> str | None:
    """The kind of the first access token in `data`, or None. The token itself is never returned."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    for anchor, shape in _ANCHORED:
        if anchor in raw and shape.pattern.search(raw):
            return shape.kind
    return None


def redact(data: bytes) -> tuple[bytes, int]:
    """`data` with every token replaced by a note of its kind, and how many there were."""
    total = 0
    for shape in _SHAPES:
        if any(anchor in data for anchor in shape.anchors):
            data, count = shape.pattern.subn(b"[redacted: " + shape.kind.encode() + b"]", data)
            total += count
    return data, total
