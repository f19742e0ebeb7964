"""A ready plan for something that is worth measuring: TOML text that `ledger run` takes.

Where an experiment or a cycle plan has the arm, the plan is its own with fresh seeds. A technique of the records
becomes a setting of the built-in trainer where there is one, and where there is none a script with a place to fill
in, which the plan says itself. Nothing is run or recorded here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ledger.errors import UsageError
from runners import plan_text
from runners.plan import parse

# technique: (settings with it, settings without it) of the built-in trainer
TRAINER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "xsa": ({"xsa_last": 1}, {}),
    "value-residual": ({"value_residual": True}, {}),
    "value-embedding": ({"value_embed_last": 1}, {}),
    "ln-scale": ({"layer_scale": True}, {}),
    "ortho-init": ({"init": "orthogonal"}, {}),
    "parallel-residuals": ({"parallel_last": 1}, {}),
    "depth-recurrence": ({"loop_count": 1, "loops": 2}, {}),
    "bigram-hash": ({"bigram_buckets": 2048}, {}),
    "smeargate": ({"smear_gate": True}, {}),
    "partial-rope": ({"rope_fraction": 0.5}, {}),
    "rope-base": ({"rope_base": 50000.0}, {}),
    "unet-skips": ({"skips": "unet"}, {"skips": "none"}),
    "relu-squared": ({"activation": "relu2"}, {"activation": "gelu"}),
    "leaky-relu-squared": ({"activation": "leaky_relu2"}, {}),
    "gelu": ({"activation": "gelu"}, {}),
    "sin-squared": ({"activation": "sin2"}, {}),
    "logit-softcap": ({"softcap": 30.0}, {"softcap": 0.0}),
    "qk-gain": ({"qk_gain": 4.0}, {}),
    "mlp-width": ({"mlp_mult": 3}, {}),
    "num-layers": ({"depth": 3}, {}),
    "gqa": ({"kv_heads": 2}, {"kv_heads": 4}),
    "mtp": ({"mtp_weight": 0.1}, {}),
    "muon-momentum": ({"momentum": 0.95}, {}),
    "muon-momentum-warmup": ({"momentum_warmup": 50}, {}),
    "weight-decay": ({"muon_decay": 0.02}, {}),
    "newton-schulz-steps": ({"newton_schulz": 3}, {}),
    "beta2": ({"beta2": 0.99}, {}),
    "grad-clip": ({"grad_clip": 1.0}, {}),
    "matrix-lr": ({"matrix_lr": 0.06}, {}),
    "scalar-lr": ({"scalar_lr": 0.02}, {}),
    "embed-lr": ({"embed_lr": 0.05}, {}),
    "batch-size": ({"batch_tokens": 2048}, {}),
    "sequence-length": ({"seq_len": 256}, {}),
    "warmdown": ({"warmdown": 0.75}, {}),
    "lr-warmup": ({"warmup_steps": 10}, {}),
    "ema": ({"ema": 0.99}, {}),
    "swa": ({"swa": 0.2}, {}),
    "qat": ({"qat_bits": 6}, {}),
    "int8": ({"quantize": "int8"}, {}),
    "int6": ({"quantize": "int6"}, {}),
    "gptq": ({"quantize": "gptq"}, {"quantize": "int6"}),
    "gptq-ar-calibration": ({"quantize": "gptq", "calib_text": "own"}, {"quantize": "gptq"}),
    "sliding-window-eval": ({"eval": "sliding"}, {}),
    "ttt": ({"eval": "ttt"}, {}),
}
_OF_A_PLAN = (
    "question", "metric", "direction", "delta", "alpha", "timeout", "pair_tier", "stage", "estimand", "scale",
    "platform", "policy",
)  # fmt: skip


class Proposal(NamedTuple):
    """A plan's text, and what a person has to fill in before it can run; empty when it is ready."""

    text: str
    fill_in: str


def raw_plan(text: str, where: str) -> dict[str, Any]:
    """A registered plan as plain data. Raises UsageError for what no program of ours wrote."""
    try:
        return json.loads(text) if text.startswith("{") else tomllib.loads(text)
    except ValueError:
        raise UsageError(f"{where}: its registered plan cannot be read") from None


def again(
    raw: Mapping[str, Any],
    arms: Sequence[str],
    name: str,
    seeds: Iterable[int],
    reason: str,
    fields: Mapping[str, Any],
) -> Proposal:
    """Some arms of a plan (none for its control alone) with fresh seeds. `fields` go over what the plan says."""
    rows = {row["name"]: row for row in raw["arm"]}
    control = raw["arm"][0]
    if missing := [arm for arm in arms if arm not in rows]:
        raise UsageError(f"the registered plan has no arm {missing[0]!r} any more")
    chosen = [control, *(rows[arm] for arm in arms if arm != control["name"])]
    content = {
        "name": name,
        **{key: raw[key] for key in _OF_A_PLAN if key in raw},
        "seeds": list(seeds),
        **fields,
        **{key: raw[key] for key in ("trainer", "script") if key in raw},
        "arm": chosen,
    }
    return _checked(content, [reason], "")


def factor_by_itself(raw: Mapping[str, Any], factor: str, name: str, seeds: Iterable[int], reason: str) -> Proposal:
    """One factor of a screen against the screen's base."""
    one = next((row for row in raw["factor"] if row["name"] == factor), None)
    if one is None:
        raise UsageError(f"the registered screen has no factor {factor!r}")
    key = "set" if "trainer" in raw else "env"
    low: dict[str, Any] = {}
    for row in raw["factor"]:
        low |= row.get("low", {})
    content = {
        "name": name,
        **{part: raw[part] for part in _OF_A_PLAN if part in raw},
        "seeds": list(seeds),
        **{part: raw[part] for part in ("trainer", "script") if part in raw},
        "arm": [{"name": "base", key: low}, {"name": factor, key: {**low, **one.get(key, {})}}],
    }
    return _checked(content, [reason], "")


def screen(
    raw: Mapping[str, Any], arms: Sequence[str], name: str, seeds: Iterable[int], reason: str
) -> tuple[Proposal, list[str]]:
    """A folded screen of some arms of a plan, and the arms that cannot be factors beside those chosen."""
    trainer = "trainer" in raw
    key = "set" if trainer else "env"
    control = raw["arm"][0].get(key, {})
    rows = {row["name"]: row for row in raw["arm"]}
    taken: set[str] = set()
    factors, left = [], []
    for arm in arms:
        row = rows[arm]
        told = row.get(key, {})
        high = {part: value for part, value in told.items() if control.get(part) != value}
        # An arm without a setting of the control's changes that, too, to what no level could say.
        if not high or row.get("args") or control.keys() - told.keys() or taken & high.keys():
            left.append(arm)
            continue
        taken |= high.keys()
        low = {part: control[part] for part in high if part in control}
        factors.append({"name": arm, key: high, **({"low": low} if low else {})})
    if len(factors) < 2:
        raise UsageError(
            "fewer than two of these changes can be combined: they set the same things, or have arguments"
        )
    kept = {part: raw[part] for part in _OF_A_PLAN if part in raw and part not in ("pair_tier", "policy")}
    rest = {part: raw[part] for part in ("trainer", "script") if part in raw}
    if left_control := {part: value for part, value in control.items() if part not in taken}:
        if trainer:
            rest["trainer"] = {**rest["trainer"], **left_control}
        else:
            rest["script"] = {**rest["script"], "env": {**rest["script"].get("env", {}), **left_control}}
    comments = [reason]
    if left:
        comments.append(
            f"Left out, because they set what another factor sets, or less than the control: {', '.join(left)}."
        )
    content = {"kind": "screen", "name": name, **kept, "seeds": list(seeds), **rest, "factor": factors}
    return _checked(content, comments, ""), left


def technique(
    names: Sequence[str],
    accepts: Callable[[Mapping[str, Any]], bool],
    name: str,
    seeds: Iterable[int],
    delta: float,
    reason: str,
) -> Proposal:
    """With and without a technique of the records: of the built-in trainer where it accepts the settings."""
    mapped = [one for one in names if one in TRAINER and all(map(accepts, TRAINER[one]))]
    content: dict[str, Any] = {"name": name, "metric": "val_bpb", "seeds": list(seeds)}
    if len(mapped) == len(names):
        without: dict[str, Any] = {}
        for one in names:
            without |= TRAINER[one][1]
        arms = [{"name": f"without {names[0]}" if len(names) == 1 else "without all", "set": without}]
        arms += [{"name": one, "set": {**without, **TRAINER[one][0]}} for one in names]
        content |= {"delta": 0.01, "trainer": {"steps": 150}, "arm": arms}
        comments = [
            reason,
            "On the built-in trainer, which is a proxy of the leaderboard's platform: an effect here foresees one",
            "there only as far as the table `transfer` says.",
        ]
        return _checked(content, comments, "")
    variables = {one: _variable(one) for one in names}
    content |= {
        "delta": delta,
        "script": {"command": ["python", "train.py"]},
        "arm": [
            {"name": "without", "env": dict.fromkeys(variables.values(), "0")},
            *({"name": one, "env": {**dict.fromkeys(variables.values(), "0"), variables[one]: "1"}} for one in names),
        ],
    }
    lost = [one for one in names if one not in mapped]
    told = (
        f"[script] command: your training program, which has to read {', '.join(variables.values())} (0 or 1) and "
        f"SEED from its environment; the built-in trainer has no {', '.join(lost)}"
    )
    return _checked(content, [reason, f"FILL IN {told}."], told)


def _variable(technique: str) -> str:
    word = "".join(letter if letter.isalnum() else "_" for letter in technique).upper()
    return word if word[:1].isalpha() else f"T_{word}"


def _checked(content: Mapping[str, Any], comments: Sequence[str], fill_in: str) -> Proposal:
    """The plan's text, which must be one that `ledger run` reads."""
    lines = [part for comment in comments for part in _wrapped(comment)]
    text = plan_text.dumps(content, lines)
    parse(text, "the proposed plan")
    return Proposal(text, fill_in)


def _wrapped(comment: str) -> list[str]:
    import textwrap

    return textwrap.wrap(comment, 108) or [""]
