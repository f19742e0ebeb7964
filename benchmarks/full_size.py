"""The challenge's full baseline on this GPU: step time, tokens a second, memory; ours and the published script's.

    python -m benchmarks.full_size --challenge PATH/train_gpt.py

Both train 9 layers, 512 wide, 524,288 tokens a step in 8 passes, on the same synthetic shards in the challenge's
format (Zipf's law over 1,024 tokens), compiled, in bfloat16, one process on one device. Ours is timed between two
synchronisations after compiling; the script's own clock does the same after its warm-up, and its last line is read.
The published file is run as it is, by its environment variables. One JSON object goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VOCAB, VAL_TOKENS, SHARD_TOKENS = 1024, 524_288, 20_000_000
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12, "5090": 210e12}  # bfloat16


def synthetic(tokens: int, seed: int) -> np.ndarray:
    """uint16 tokens by Zipf's law, in runs that a model can learn a little of."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, VOCAB + 1)
    found = rng.choice(VOCAB, size=tokens, p=shares / shares.sum())
    again = rng.random(tokens) < 0.3
    found[1:][again[1:]] = (found[:-1][again[1:]] * 7 + 3) % VOCAB
    return found.astype(np.uint16)


class Synthetic:
    """Synthetic tokens as a Source (runners/gpt_data.py)."""

    vocab_size = VOCAB

    def __init__(self, folder: Path) -> None:
        from runners.bytecount import exact
        from runners.shards import load_shard

        self.train, self.val = (
            load_shard(folder / "fineweb_train_000000.bin"),
            load_shard(folder / "fineweb_val_000000.bin"),
        )
        self.counts = exact(np.ones(VOCAB, dtype=np.int32))
        self.digests: dict[str, tuple[str, int]] = {}

    def batches(self, config: Any, seed: int) -> Iterator[np.ndarray]:
        from runners.shards import batches

        return batches([self.train], config.seq_len, config.windows, seed)

    def sample(self, tokens: int) -> np.ndarray:
        return self.train[:tokens]

    def check(self, config: Any) -> None:
        return


def ours(folder: Path, steps: int, settings: dict[str, Any], profile: bool, seeds: int = 1) -> dict[str, Any]:
    """Our trainer: compiled, then `steps` steps between two synchronisations."""
    import torch

    from runners.gpt_config import GptConfig
    from runners.gpt_device import find_device
    from runners.gpt_train import Run, Trainer

    config = GptConfig.from_dict(
        {"preset": "baseline", "wallclock": 0.0, "quantize": "none", "steps": steps, **settings}
    )
    device = find_device(config.device)
    trainer = Trainer(Synthetic(folder))
    run = Run(trainer, config, list(range(seeds)), device, lambda *_: None, lambda: None)
    began = time.perf_counter()
    run.warm_up()
    state = run.begin(None)
    first = run.step(state, [next(batches) for batches in run.batches])
    loss_before = first.loss.mean().item()
    compiling = time.perf_counter() - began
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    found = first
    began = time.perf_counter()
    for _ in range(steps):
        found = run.step(state, [next(batches) for batches in run.batches])
    loss = found.loss.mean().item()  # waits for the device
    seconds = (time.perf_counter() - began) / steps
    made = {
        "step_ms": 1000 * seconds,
        "tokens_per_s": seeds * config.batch_tokens / seconds,
        "seeds": seeds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "compile_s": compiling,
        "loss_first": loss_before,
        "loss_last": loss,
        "parameters": sum(p.numel() for p in state.params.values()) // seeds,
        "steps": steps,
        "attention": config.attention,
    }
    if name := next((name for name in PEAK if cuda and name in torch.cuda.get_device_name()), None):
        made["of_peak"] = flops_a_token(config) * made["tokens_per_s"] / PEAK[name]
    if profile:
        made["kernels"] = kernels(run, state)
    return made


def flops_a_token(config: Any) -> float:
    """Forward and backward: six a weight that is multiplied, and the scores and sums of causal attention."""
    d, kv = config.width, config.head_dim * config.kv_heads
    up, down = config.hidden
    block = 2 * d * d + 2 * d * kv + d * (up + down)
    return 6.0 * (config.depth * block + config.vocab_size * d) + 6.0 * config.depth * config.seq_len * d


def kernels(run: Any, state: Any, top: int = 12) -> list[list[Any]]:
    """The device's time of one step by kernel: [name, milliseconds, calls], the longest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        run.step(state, [next(batches) for batches in run.batches])
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)[:top]
    return [[row.key[:80], round(row.self_device_time_total / 1000, 2), row.count] for row in rows]


def published(script: Path, folder: Path, tokenizer: Path, steps: int) -> dict[str, Any]:
    """The challenge's script as it is: its clock at the last step, its memory line."""
    variables = {
        "DATA_PATH": str(folder), "TOKENIZER_PATH": str(tokenizer), "VOCAB_SIZE": str(VOCAB), "RUN_ID": "bench",
        "ITERATIONS": str(steps), "WARMUP_STEPS": "3", "MAX_WALLCLOCK_SECONDS": "0", "VAL_LOSS_EVERY": "0",
        "TRAIN_LOG_EVERY": str(10 * steps), "VAL_BATCH_SIZE": str(VAL_TOKENS), "WARMDOWN_ITERS": "0", "SEED": "0",
    }  # fmt: skip
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as inside:
        done = subprocess.run(
            [sys.executable, str(script.resolve())],
            env={**os.environ, **variables}, cwd=inside, capture_output=True, text=True, check=False,
        )  # fmt: skip
    text = done.stdout
    last = re.findall(rf"step:{steps}/{steps} val_loss:\S+ val_bpb:\S+ train_time:(\d+)ms", text)
    memory = re.search(r"peak memory allocated: (\d+) MiB", text)
    losses = re.findall(r"train_loss:(\d+\.\d+)", text)
    if not last:
        raise SystemExit(
            f"the published script told no step time (exit {done.returncode}):\n{(text + done.stderr)[-3000:]}"
        )
    seconds = int(last[-1]) / 1000 / steps
    return {
        "step_ms": 1000 * seconds,
        "tokens_per_s": 524_288 / seconds,
        "peak_memory_bytes": int(memory[1]) << 20 if memory else None,
        "loss_first": float(losses[0]) if losses else None,
        "loss_last": float(losses[-1]) if losses else None,
        "steps": steps,
        "wall_s": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--challenge", type=Path, help="the published train_gpt.py; without it only ours is timed")
    parser.add_argument("--attention", default="auto", help="kernels to time ours with, by comma: auto,flash,cudnn")
    parser.add_argument("--rounds", type=int, default=1, help="how often both take turns")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of ours, as JSON")
    parser.add_argument("--seeds", type=int, default=1, help="of ours, in one batch")
    parser.add_argument("--profile", action="store_true", help="the longest kernels of one step of ours")
    parser.add_argument("--output", type=Path, help="write the JSON there, too")
    options = parser.parse_args()
    import torch

    from runners.corpus import prepare
    from runners.shards import write_shard

    settings = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in options.set)}
    told: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "ours": [],
        "published": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "fineweb_train_000000.bin", synthetic(SHARD_TOKENS, 0))
        write_shard(folder / "fineweb_val_000000.bin", synthetic(VAL_TOKENS + 1, 1))
        for _ in range(options.rounds):
            for attention in options.attention.split(","):
                try:
                    told["ours"].append(
                        ours(
                            folder,
                            options.steps,
                            {**settings, "attention": attention},
                            options.profile,
                            options.seeds,
                        )
                    )
                except RuntimeError as error:
                    told["ours"].append({"attention": attention, "error": str(error)[:500]})
                print(json.dumps(told["ours"][-1]), file=sys.stderr, flush=True)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            if options.challenge:
                tokenizer = prepare().tokenizer_path
                told["published"].append(published(options.challenge, folder, tokenizer, options.steps))
                print(json.dumps(told["published"][-1]), file=sys.stderr, flush=True)
    good = [made["step_ms"] for made in told["ours"] if "step_ms" in made]
    if good and told["published"]:
        told["ratio"] = min(good) / min(made["step_ms"] for made in told["published"])
    print(json.dumps(told, indent=1))
    if options.output:
        options.output.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
