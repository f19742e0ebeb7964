"""What a GPT arm is: one frozen config that both backends read, with every intervention as a field.

The defaults are the small control; a run of them takes a few seconds of one core. Each further field is off by
default, and off means absent: no parameter, no pass over the data, the same bits as before the field existed.
`PRESETS` holds the challenge's full baseline and the first pipeline's `fast` screen; in a plan, `preset = "baseline"`
stands for its fields, and what is written beside it overrules it.

What it must never do: import torch or mlx, or accept a setting that it does not know. docs/trainers.md explains each
field and names its source.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_type_hints

import msgspec

Backend = Literal["auto", "torch", "mlx"]
Activation = Literal["relu2", "gelu", "silu", "sin", "sin2", "leaky_relu2", "fan"]
Mlp = Literal["standard", "dml_gated", "dml_orth", "fan_dml", "causal_wide", "dml_causal_wide"]
Quantize = Literal[
    "none", "int8", "int8_clip", "int6", "int6_clip", "int6_group", "awq", "awq_group", "gptq", "gptq_group"
]

PATHS = {"standard": 1, "dml_gated": 2, "dml_orth": 3, "fan_dml": 2, "causal_wide": 3, "dml_causal_wide": 6}


class GptConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm. Raises ValueError, in one line, for values that make no model."""

    # --- shape
    depth: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    mlp_mult: int = 2  # hidden width of the MLP in widths; the MLP variants take as many parameters
    vocab_size: int = 1024
    seq_len: int = 128

    # --- blocks
    activation: Activation = "relu2"
    mlp: Mlp = "standard"
    softcap: float = 30.0  # 0: no cap
    rope_base: float = 1e4
    rope_fraction: float = 1.0  # of each head's dimensions that turn
    qk_gain: float = 1.5  # initial
    skips: Literal["unet", "dense", "none"] = "unet"  # dense: every block reads a learned mix of all before it
    xsa_last: int = 0  # blocks, from the last, whose attention leaves out a token's own value
    value_residual: bool = False
    value_embed_last: int = 0  # blocks, from the last, whose values have the token's row of a table added
    value_embed_width: int = 128  # columns of that table, which they share
    layer_scale: bool = False  # what the i-th block reads is scaled by 1 / sqrt(i), counted from one
    parallel_last: int = 0  # blocks, from the last, whose attention and MLP read the same input
    loop_first: int = 0  # of the blocks that are applied `loops` times
    loop_count: int = 0
    loops: int = 1

    # --- embedding
    bigram_buckets: int = 0  # 0: no table of hashed pairs
    bigram_width: int = 128
    bigram_zero: bool = False  # its table begins at zero; else as the tokens' does
    smear_gate: bool = False
    smear_init: float = -2.0  # of the gate before its sigmoid

    # --- objective: what is trained on; the losses that are reported stay plain
    bt_lambda: float = 0.0  # Barlow-Twins term between the paths of an MLP variant
    bt_layers: float = 0.0  # the same between neighbouring blocks
    rho1_keep: float = 1.0  # share of a batch's tokens that are trained on
    rho1_reference: Literal["bigram", "none"] = "bigram"  # excess over what; none: the loss itself
    mtp_weight: float = 0.0  # of the loss of the token after the next
    mtp_margin: float = 5.0  # trained only where the next token's two largest logits differ by more
    mtp_warmup: float = 0.2  # fraction of the run over which the weight rises from zero
    position_weight: float = 0.0  # -1 to 1: weight of late positions over early ones; the mean weight is one

    # --- what the model is shown while it trains; targets stay the text's
    token_drop: float = 0.0  # share of input tokens shown as nothing and not trained on
    token_drop_schedule: Literal["constant", "linear_decay"] = "constant"
    corrupt: float = 0.0  # share of input tokens replaced
    corrupt_by: Literal["uniform", "model"] = "uniform"
    corrupt_schedule: Literal["constant", "sine"] = "constant"
    probe: Literal["off", "adaptive", "adversarial"] = "off"  # masked embeddings: where it is easy; where it hurts
    probe_base: float = 0.05  # share of positions masked
    probe_max: float = 0.30  # adaptive: where the running loss is below `probe_threshold` of the mean
    probe_threshold: float = 1.0
    probe_ema: float = 0.1
    curriculum: Literal["off", "easy_first", "hard_first"] = "off"
    curriculum_buffer: int = 8  # batches that are scored and reordered at a time; 0: all of an epoch

    # --- optimiser
    steps: int = 150
    batch_tokens: int = 1024  # a step; half of 2048 and twice the steps learns more from the same tokens
    micro_tokens: int = 0  # in one pass; 0: the whole batch, or a device's share of it
    matrix_lr: float = 0.04  # Muon
    embed_lr: float = 0.03  # Adam
    scalar_lr: float = 0.01  # Adam
    momentum: float = 0.85  # Muon
    momentum_start: float = 0.85
    momentum_warmup: int = 0  # steps from momentum_start to momentum
    muon_decay: float = 0.0  # decoupled weight decay of the matrices
    adam_decay: float = 0.0  # the same of everything else: tables, gains and scales
    projections: Literal["muon", "adam"] = "muon"  # who trains the matrices behind the tables; adam: at scalar_lr
    newton_schulz: int = 5  # steps
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 0.0  # 0: none
    warmup_steps: int = 0
    warmdown: float = 0.5  # the last part of the run over which learning rates fall to zero
    warmdown_steps: int = 0  # the same in steps; over `warmdown` where it is given
    wallclock: float = 0.0  # seconds of training after which it stops and by which it warms down; 0: by steps alone
    embed_init: float = 0.005  # standard deviation
    init: Literal["uniform", "orthogonal"] = "uniform"  # of the matrices that do not begin at zero

    # --- weights that are evaluated
    ema: float = 0.0  # decay of the running mean; 0: none
    swa: float = 0.0  # last part of the run whose weights are averaged
    swa_every: int = 1  # steps
    qat_bits: int = 0  # straight-through quantization of the matrices while training; 0: none
    qat_from: float = 1.0  # from the first step whose learning-rate scale is at most this; 1: from the start

    # --- after training
    quantize: Quantize = "none"  # what is evaluated is read back from the compressed bytes
    quant_group: int = 64  # weights that share a step, in the schemes with groups
    calib_tokens: int = 16_384  # of the training text, for the schemes that look at inputs
    calib_seed: int = 0  # which windows of it
    calib_text: Literal["training", "own"] = "training"  # own: what the model writes, `calib_tokens` of it
    calib_temperature: float = 0.8  # of the model's logits as it writes
    gptq_damping: float = 0.01  # added to the Hessian's diagonal, in means of it
    quant_floor: float = 0.0  # the largest code stands for at least this weight: no finer steps than that
    quant_pack: Literal["bits", "bytes"] = "bits"  # before the compressor, which sees more in whole bytes
    prune_to: int = 0  # bytes of code and model; beyond them codes of one become zero until it fits; 0: never
    eval: Literal["chunked", "sliding", "ttt"] = "chunked"
    eval_stride: int = 64  # sliding: tokens scored a window
    ttt_lr: float = 0.002
    ttt_epochs: int = 3
    ttt_freeze: int = 2  # first blocks that stay as they are
    ttt_chunk: int = 32_768  # tokens scored, then trained on
    val_tokens: int = 0  # scored, from the start of the held-out split; whole windows only; 0: all of it
    val_every: int = 0  # steps between validations; 0: only after the last step

    # --- where and how
    data: str = ""  # folder of shards; empty: the embedded corpus
    shards: int = 0  # of training text, the first ones; 0: all that are there
    backend: Backend = "auto"  # mlx on Apple Silicon, torch elsewhere
    device: str = "auto"  # auto, cpu, cuda, mps
    devices: int = 1  # that train a run together, each its share of every batch; 0: all that are here
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of matrix products; auto: bfloat16 on CUDA
    compile: Literal["auto", "on", "off"] = "auto"  # auto: on CUDA, once an architecture
    attention: Literal["auto", "flash", "cudnn", "math"] = "auto"  # torch's kernel
    # One, whatever the machine has: the count is part of what makes bits equal; at this size a second thread saves a
    # third at best; and two that wait for each other beside another busy process made a run take a hundred seconds.
    threads: int = 1
    keep_weights: bool = False  # the trained weights as an artifact of the run (safetensors)
    stack_seeds: bool = False  # the seeds of an arm in one batch: the same figures within a stated tolerance, sooner

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GptConfig:
        """A config from plain values, as a plan holds them. Raises ValueError with one line that says why."""
        said = dict(values)
        known = (*cls.__struct_fields__, "preset")
        for key in said:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise ValueError(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        preset = said.pop("preset", "demo")
        if preset not in PRESETS:
            near = difflib.get_close_matches(str(preset), PRESETS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PRESETS)}"
            raise ValueError(f"unknown preset {preset!r}; {hint}")
        try:
            return msgspec.convert({**PRESETS[preset], **said}, cls)
        except msgspec.ValidationError as error:
            raise ValueError(_readable(error)) from None

    @classmethod
    def from_record(cls, values: Mapping[str, str]) -> GptConfig:
        """A config as the start of a run recorded it, every value as text. Fields that were not there yet were off.

        Raises ValueError where it names a field that is here no longer, or one that makes no model.
        """
        if unknown := [name for name in values if name not in cls.__struct_fields__]:
            raise ValueError(f"unknown key {unknown[0]!r}")
        try:
            return msgspec.convert(dict(values), cls, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(_readable(error)) from None

    # --- what follows from the fields

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def rope_dims(self) -> int:
        """Dimensions of a head that turn: an even number, the first ones."""
        return 2 * round(self.head_dim * self.rope_fraction / 2)

    @property
    def order(self) -> tuple[int, ...]:
        """Blocks as they are applied: 0 1 2 1 2 for depth 3 with two loops of the last two."""
        end = self.loop_first + self.loop_count
        looped = tuple(range(self.loop_first, end)) * self.loops
        return (*range(self.loop_first), *looped, *range(end, self.depth)) if looped else tuple(range(self.depth))

    @property
    def hidden(self) -> tuple[int, int]:
        """(rows of `up`, columns of `down`) of the MLP. Together about 2 * mlp_mult * width for every variant."""
        whole = self.mlp_mult * self.width
        match self.mlp:
            case "standard":
                return (whole - whole // 8, whole) if self.activation == "fan" else (whole, whole)
            case "dml_gated":
                path = _eights(whole * 2 / 3)
                return 2 * path, path
            case "fan_dml":
                path = _eights(whole * 16 / 23)
                return 2 * path - path // 8, path
            case "dml_orth" | "causal_wide":
                path = _eights(whole / 3)
                return 3 * path, 3 * path
        path = _eights(whole * 2 / 9)  # dml_causal_wide
        return 6 * path, 3 * path

    @property
    def windows(self) -> int:
        """Sequences in a batch."""
        return self.batch_tokens // self.seq_len

    @property
    def share_windows(self) -> int:
        """Sequences of a batch that one device trains on."""
        return self.windows // max(1, self.devices)

    @property
    def pass_windows(self) -> int:
        """Sequences in one pass on one device: what a selection, a correlation or a count over a pass is over."""
        return min(self.micro_tokens // self.seq_len or self.share_windows, self.share_windows)


def _eights(size: float) -> int:
    """The nearest multiple of eight, at least eight: fast matrix products want it, and FAN takes an eighth."""
    return max(8, 8 * round(size / 8))


PRESETS: dict[str, dict[str, Any]] = {"demo": {}}
PRESETS["baseline"] = {  # the challenge's published script
    "depth": 9, "width": 512, "heads": 8, "kv_heads": 4, "mlp_mult": 2, "vocab_size": 1024, "seq_len": 1024,
    "steps": 20_000, "batch_tokens": 524_288, "micro_tokens": 65_536,
    "matrix_lr": 0.04, "embed_lr": 0.05, "scalar_lr": 0.04,
    "momentum": 0.95, "momentum_start": 0.85, "momentum_warmup": 500,
    "warmdown_steps": 1200, "wallclock": 600.0, "val_tokens": 0, "quantize": "int8",
}  # fmt: skip
PRESETS["fast"] = PRESETS["baseline"] | {  # the first pipeline's quick screen
    "depth": 5, "steps": 300, "batch_tokens": 65_536, "warmdown_steps": 60, "wallclock": 0.0,
    "val_tokens": 1_048_576, "quantize": "none",
}  # fmt: skip


def fast(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's settings made small enough for a look: a fifth of the steps and at most 300, at most 65,536 tokens a
    step and 5 layers, no wall clock. Raises ValueError as from_dict. What an arm sets stays as it is set."""
    config = GptConfig.from_dict(settings)
    steps = min(300, max(20, config.steps // 5))
    every = max(1, config.devices) * config.seq_len  # a sequence for each device at least
    tokens = min(config.batch_tokens, max(1, 65_536 // every) * every)
    small: dict[str, Any] = {"steps": min(config.steps, steps), "batch_tokens": tokens, "wallclock": 0.0}
    small["depth"] = min(config.depth, 5)
    if config.micro_tokens and tokens // every * config.seq_len % config.micro_tokens:
        small["micro_tokens"] = 0
    if config.warmdown_steps:
        small["warmdown_steps"] = max(1, small["steps"] // 5)
    return {**settings, **small}


# What changes the text that a model trains on: train losses over different texts are no comparison.
SHOWN = (
    *("token_drop", "token_drop_schedule", "corrupt", "corrupt_by", "corrupt_schedule", "probe", "probe_base"),
    *("probe_max", "probe_threshold", "probe_ema", "curriculum", "curriculum_buffer", "seq_len", "vocab_size"),
)

# Fields that act only after the training, or only from a late step on: arms that differ in nothing else continue
# one checkpoint of each seed.
LATE = (
    "quantize",
    "quant_group",
    "calib_tokens",
    "calib_seed",
    "calib_text",
    "calib_temperature",
    "gptq_damping",
    "quant_floor",
    "quant_pack",
    "prune_to",
    "eval",
    "eval_stride",
    "ttt_lr",
    "ttt_epochs",
    "ttt_freeze",
    "ttt_chunk",
)
LATE_FROM = ("qat_bits", "qat_from")
# Fields that say where a run takes place. They change no figure beyond rounding, so they make no other arm.
WHERE = ("keep_weights", "backend", "device", "devices", "compile", "attention", "threads", "stack_seeds")


def check(config: GptConfig) -> None:
    """Raises ValueError where the values make no model or contradict each other."""
    for names, low, high, rule in _RANGES:
        for name in names.split():
            value = getattr(config, name)
            _must(low <= value <= high and math.isfinite(value), f"{name} must be {rule}", value)
    for name, kind in _CHOICES.items():
        value = getattr(config, name)
        if value not in kind:
            near = difflib.get_close_matches(str(value), kind, n=1)
            raise ValueError(
                f"{name} must be one of {', '.join(kind)}, found {value!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    _must(config.width % config.heads == 0, f"heads must divide width {config.width}", config.heads)
    _must(config.heads % config.kv_heads == 0, f"kv_heads must divide heads {config.heads}", config.kv_heads)
    _must(config.head_dim % 2 == 0, "width / heads must be even for rotary positions", config.head_dim)
    tokens, seq = config.batch_tokens, config.seq_len
    _must(tokens % seq == 0, f"seq_len must divide batch_tokens {tokens}", seq)
    if micro := config.micro_tokens:
        _must(micro % seq == 0, f"micro_tokens must be a multiple of seq_len {seq}", micro)
        _must(tokens % micro == 0, f"micro_tokens must divide batch_tokens {tokens}", micro)
    if config.devices > 1:
        _must(
            config.windows % config.devices == 0,
            f"devices must divide the {config.windows} sequences of a batch (batch_tokens / seq_len)",
            config.devices,
        )
        share = config.share_windows
        _must(
            share % config.pass_windows == 0,
            f"micro_tokens must divide the {share * seq} tokens of a batch that each of {config.devices} devices "
            f"trains on (one pass: micro_tokens = {share * seq})",
            micro,
        )
        _must(
            not config.stack_seeds,
            "stack_seeds is for one device: with several each run has all of them, so it must be off",
            config.stack_seeds,
        )
    if config.val_tokens:
        _must(config.val_tokens >= seq, f"val_tokens must be 0 or at least seq_len {seq}", config.val_tokens)
    for name in ("xsa_last", "parallel_last", "value_embed_last"):
        _must(
            getattr(config, name) <= config.depth,
            f"{name} must be at most depth {config.depth}",
            getattr(config, name),
        )
    looped = config.loop_count > 0
    _must(looped == (config.loops > 1), "loops above 1 and loop_count above 0 belong together", config.loops)
    _must(
        config.loop_first + config.loop_count <= config.depth,
        f"loop_first + loop_count must be at most depth {config.depth}",
        config.loop_first + config.loop_count,
    )
    if config.activation == "fan":
        whole = config.mlp_mult * config.width
        _must(
            config.mlp == "standard",
            "activation 'fan' goes with mlp 'standard' (fan_dml is the other one)",
            config.mlp,
        )
        _must(whole % 8 == 0, "activation 'fan' needs mlp_mult * width to be a multiple of 8", whole)
    if config.bt_lambda:
        several = ", ".join(name for name, paths in PATHS.items() if paths > 1)
        _must(PATHS[config.mlp] > 1, f"bt_lambda needs an mlp of several paths ({several})", config.mlp)
    if config.bt_layers:
        _must(len(config.order) > 1, "bt_layers needs two blocks", len(config.order))
    if config.bigram_buckets:
        _must(config.bigram_buckets >= 2, "bigram_buckets must be 0 or at least 2", config.bigram_buckets)
    if config.rho1_keep < 1 and config.rho1_reference == "bigram":
        _must(config.vocab_size <= 4096, "rho1_reference 'bigram' is for vocab_size up to 4096", config.vocab_size)
    _must(config.qat_bits == 0 or 2 <= config.qat_bits <= 8, "qat_bits must be 0 or 2 to 8", config.qat_bits)
    _must(not (config.ema and config.swa), "ema and swa are two ways to average: give one of them", config.swa)
    if config.val_every:
        _must(config.eval == "chunked", "val_every goes with eval 'chunked': the others are for the end", config.eval)
    if config.eval != "chunked":
        _must(config.eval_stride <= seq, f"eval_stride must be at most seq_len {seq}", config.eval_stride)
    if config.eval == "ttt":
        _must(
            config.ttt_freeze <= config.depth, f"ttt_freeze must be at most depth {config.depth}", config.ttt_freeze
        )
    _must(
        not (config.keep_weights and config.stack_seeds),
        "keep_weights is for seeds that train singly: stack_seeds must be off",
        config.stack_seeds,
    )
    _must(
        config.probe_base <= config.probe_max,
        f"probe_base must be at most probe_max {config.probe_max}",
        config.probe_base,
    )


_INF = math.inf
_COUNTS = (
    "depth width heads kv_heads mlp_mult vocab_size seq_len steps batch_tokens threads loops bigram_width "
    "newton_schulz swa_every quant_group calib_tokens eval_stride ttt_epochs ttt_chunk value_embed_width"
)
_AMOUNTS = (
    "softcap qk_gain matrix_lr embed_lr scalar_lr warmup_steps warmdown_steps val_every wallclock embed_init "
    "momentum_warmup muon_decay grad_clip bt_lambda bt_layers mtp_weight mtp_margin probe_threshold ttt_lr "
    "val_tokens micro_tokens curriculum_buffer bigram_buckets xsa_last parallel_last loop_first loop_count "
    "ttt_freeze qat_bits shards calib_seed value_embed_last adam_decay gptq_damping quant_floor prune_to "
    "devices"
)
_RANGES = (
    (_COUNTS, 1, _INF, "at least 1"),
    (_AMOUNTS, 0, _INF, "finite, not negative"),
    ("rope_base", 1, _INF, "finite and at least 1"),
    ("warmdown mtp_warmup swa probe_max probe_ema qat_from rope_fraction", 0, 1, "a fraction from 0 to 1"),
    ("token_drop corrupt probe_base", 0, 0.95, "a share from 0 to 0.95"),
    ("ema momentum momentum_start beta1 beta2", 0, math.nextafter(1, 0), "at least 0 and below 1"),
    ("rho1_keep", math.nextafter(0, 1), 1, "a share above 0 and up to 1"),
    ("position_weight", -1, 1, "from -1 to 1"),
    ("smear_init", -_INF, _INF, "finite"),
    ("calib_temperature", math.nextafter(0, 1), _INF, "finite and above 0"),
)


def _must(holds: bool, rule: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, found {found!r}")


_HINTS = get_type_hints(GptConfig)
_CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(kind) for name, kind in _HINTS.items() if name in GptConfig.__struct_fields__ and get_args(kind)
}


def _readable(error: msgspec.ValidationError) -> str:
    """msgspec's message, with the choices where a word is none of them; ours (from `check`) as it stands."""
    text, _, path = str(error).partition(" - at `$.")
    if isinstance(error.__cause__, ValueError) and not path:
        return str(error.__cause__)
    name = path.rstrip("`")
    if name in _CHOICES and text.startswith("Invalid enum value"):
        found = text.removeprefix("Invalid enum value ").strip("'")
        near = difflib.get_close_matches(found, _CHOICES[name], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{name} must be one of {', '.join(_CHOICES[name])}, found {found!r}{hint}"
    if kinds := re.fullmatch("Expected `(.+)`, got `(.+)`", text):
        return f"{name} must be {_KINDS.get(kinds[1], kinds[1])}, found {_KINDS.get(kinds[2], kinds[2])}"
    return str(error)


_KINDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list"}


def backend_of(config: GptConfig) -> Literal["torch", "mlx"]:
    """The backend that a run takes: what is asked for, else mlx on Apple Silicon and torch elsewhere."""
    if config.backend != "auto":
        return config.backend
    import platform

    return "mlx" if sys.platform == "darwin" and platform.machine() == "arm64" else "torch"
