"""What a metric looks like in text: numbers, names, steps, and all that only looks like one.

Patterns and pure functions for ``readout``, which holds the state. They must never need more than linear time
in the length of a line: a training program waits while they work.
"""

import ast
import builtins
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

MAX_LITERAL = 8 << 10  # characters handed to Python's parser for a dict


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBER = (
    # Possessive where two parts could share the digits: a page of digits must not cost its square.
    r"[-+−]?(?:\d{1,3}(?:,\d{3})++(?:\.\d++)?|\d{1,3}(?:_\d{3})++|\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+−]?\d++)?"
    r"|[-+−]?(?:[nN]a[nN]|NAN|[iI]nf(?:inity)?|INF)"
)
UNIT = (
    r"%|[KMGTP]i?B(?:/s)?|[kKMGTBx]|B|(?:n|u|µ|μ|m)?s(?:/\w{1,10})?|secs?|m|mins?|h|hrs?|d|"
    r"(?:it|iters?|steps?|samples?|tok|tokens?|seq)/s(?:ec)?|[TGP]?FLOPS?|[km]?W|°?C|V|Hz|[MG]Hz"
)
UNIT_WORDS = _words(
    "b kb mb gb tb kib mib gib tib bytes byte bits ns us µs ms s sec secs second seconds m min mins minute minutes "
    "h hr hrs hour hours it/s tok/s tokens/s tokens/sec tok/sec samples/s steps/s iter/s flops gflops tflops w c hz"
)
# What may follow a value; "3.2 -> 3.1" tells two, and which one counts is not ours to say.
END = r"(?=[\s;|()\[\]}'\"<>±!*`]|,(?!\d)|\.(?=\s|$)|$)(?!\s*(?:->|=>|→))"
WRAP = r"(?:(?:torch\.)?tensor\(|(?:np|jnp|numpy)\.\w+\(|Array\()?"

# The cheap gate: without a separator that is followed by a number, nothing below needs to run.
HINT = re.compile(
    r"[:=]\s*+['\"]?(?:(?:np|jnp|numpy|torch)\.|tensor\(|Array\(|[-+−]?(?:\.?\d|[nN][aA][nN]|[iI][nN][fF]))"
)
PAIR = re.compile(
    r"(?<![\w./:@\\+%-])"  # a whole word: not the tail of a path, an address, a time or an option
    r"(?P<q>['\"]?)(?P<name>[^\W\d][\w./@+%-]*+(?<=[\w%])(?:\s?\([^()\s]{1,24}\))?)(?P=q)"
    rf"(?P<sep>\s*(?::|=(?!=))\s*){WRAP}(?P<value>{NUMBER})(?P<unit>{UNIT})?{END}"
)
STEP_WORDS = r"(?:global[_ ])?(?:step|iter|iteration)|epoch"
STEP = re.compile(
    rf"(?<![\w./-])(?P<word>(?i:{STEP_WORDS}))['\"]?\s{{0,8}}[:=#]?\s{{0,8}}[\[(]?(?P<n>\d{{1,15}})(?=$|[\s,:;|/\])}}])"
)
HEAD = re.compile(
    rf"\s*\[?(?i:{STEP_WORDS})\s{{0,8}}[:=#]?\s{{0,8}}(?P<n>\d{{1,15}})(?:\s*/\s*\d+)?\]?(?:\s*\([\d.%\s]+\))?"
    r"(?=$|[\s,:;|\])}])\s*[:,|-]?\s*"
)
COUNTER = re.compile(r"\s*\[?(\d{1,15})/\d{1,15}\]?[\s:|]")  # "500/20000 train_loss: 2.3"
BAR = re.compile(r"(\d{1,15})/\d{1,15} \[\d+:\d\d")  # tqdm: "10/100 [00:01<00:09, 9.5it/s, loss=3.2]"
PIECES = re.compile(r",(?!\d)|[|;]|\s-\s")
BARE = re.compile(
    rf"\s*(?P<name>(?:[^\W\d][\w./@+%-]*+\s+){{1,4}})(?P<value>{NUMBER})(?P<unit>{UNIT})?(?![^\s(])"
    r"(?:\s+(?P<word>[A-Za-zµ%/]+)(?=\s*$))?(?:\s*\([^()]*\))?\s*"
)
NEXT = re.compile(r"[ \t]+(?:±\s?\d+[ \t]+)?(?P<word>[A-Za-z%µ][\w/+-]*)(?P<pair>\s*[:=]|\s+[-+−]?\.?\d)?")
LEAD = re.compile(r"(?:^|[\],;|:)}>#*•]|\s[-–—])\s*((?:[^\W\d_][\w+/-]*\s+){1,4})$")
QUALIFIER = re.compile(
    r"(?<![\w.-])((?:(?i:train|training|val|valid|validation|eval|evaluation|test|dev|avg|average|mean|total|final|best"
    r"|running|min|max|ema|smoothed)\s+){1,3})$"
)
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
LOGGING = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:")  # logging.basicConfig's own format
RANK = re.compile(r"\[rank\d+\]:\s?")
LEVELS = _words("TRACE DEBUG INFO NOTICE WARN WARNING ERROR CRITICAL FATAL")
FILE_NAME = re.compile(  # train.py:12, example.org:8080
    r"\.(?:py|pyx|ipynb|c|cc|cpp|cxx|cu|cuh|h|hpp|rs|go|js|ts|java|sh|txt|log|json|yaml|yml|toml|com|org|net|io|local)$"
)
EXCEPTIONS = frozenset(
    n for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, BaseException)
) | {"Error"}
STEP_NAMES = ("step", "global_step", "iteration", "iter", "epoch")
DEVICES = _words("cuda cpu mps xpu hip gpu tpu")  # cuda:0 is none, "gpu: 93.1" is one
NOT_METRICS = _words(  # things that carry versions, addresses, clocks
    "localhost cuda python pytorch torch cudnn nccl numpy transformers triton jax line eta http https id pid port"
)
STOP_WORDS = _words(
    "in at of to for from with after than over line took on by is was and or the a until saved saving port pid"
)
CODE_TRIGGERS = (
    "import ",
    "from ",
    "def ",
    "class ",
    "async def ",
    "@",
    "#!/",
    "Traceback (most recent",
    "[rank",
    '  File "',
)
CODE_START = re.compile(
    r"import [\w.]+(?: as \w+)?(?:, ?[\w. ]+)*\s*(?:#.*)?$|from [\w.]+ import |(?:async )?def \w+\(|class \w+[(:]"
    r"|@\w[\w.]*(?:\(.*)?$|#!/"
)
CODE_LINE = re.compile(
    r"$|[\s#)\]}\"'@]|(?:import|from|def|class|async|if|elif|else|for|while|with|try|except|finally|return|assert|raise|del"
    r"|global|print|pass|lambda)\b|[\w.\[\]'\",]+(?:: ?[\w.\[\], |]+)? [-+*/|&@%]?= |\w[\w.]*\("
)


def number(text: str, has_unit: bool) -> float | None:
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


def is_metric(name: str) -> bool:
    low = name.lower()
    if low in NOT_METRICS or low.endswith(("version", "_id")) or name in EXCEPTIONS:
        return False
    if "." in name and (FILE_NAME.search(low) or name.rsplit(".", 1)[1] in EXCEPTIONS):
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


def structured(text: str) -> dict[str, Any] | None:
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


def flatten(found: dict[str, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, float, bool]]:
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
            yield from flatten(value, f"{name}.", depth + 1)
        elif isinstance(value, str) and value.lower() in _WORDS_FOR_NUMBERS:
            yield name, float(value), False


_NESTED_REPEAT = re.compile(r"\((?:[^()]|\([^()]*\))*[+*](?:[^()]|\([^()]*\))*\)(?:[+*]|\{\d*,)")


def compile_pattern(pattern: str) -> re.Pattern[str]:
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
