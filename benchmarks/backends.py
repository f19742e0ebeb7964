"""The two backends of the built-in GPT on this machine: tokens a second, and CPU seconds, of the same work.

    python -m benchmarks.backends [--rounds N] [--steps N] [--compiled] [--json]

The founding size: 2 layers, 64 wide, sequences of 128, vocabulary 1,024, 2,048 tokens a step. Every round trains
both for the same steps from the same start on the same batches, in one process, torch first in even rounds and
MLX first in odd ones; a first round of two steps each is thrown away. Tokens a second are of training, without
validation; ratios are within a round. Both end at the same loss, which is printed: the work was the same.
`--compiled` sends MLX's steps through mx.compile also on a CPU, where its compiler takes long once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from runners.gpt_config import GptConfig


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu", help="cpu (default), mps or cuda, of both backends")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    from runners import gpt_mlx_train, gpt_train
    from runners.corpus import prepare

    said = machine.describe("experiment-ledger", "torch", "mlx")
    config = GptConfig(steps=given.steps, batch_tokens=2048, val_tokens=2048, device=given.device)
    with tempfile.TemporaryDirectory(prefix="backends-") as folder:
        corpus = prepare(Path(folder))
        trainers = {
            "torch": gpt_train.Trainer(corpus),
            "mlx": gpt_mlx_train.Trainer(corpus, compiled=True if given.compiled else None),
        }
        warm = GptConfig(steps=2, batch_tokens=2048, val_tokens=2048, device=given.device)
        for trainer in trainers.values():
            trainer.train(warm, 0)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
        losses: dict[str, float] = {}
        for turn in range(given.rounds):
            for name in sorted(trainers, reverse=turn % 2 == 0):
                cpu = time.process_time()
                result = trainers[name].train(config, 0)
                took[name].append((result.tokens_per_s, time.process_time() - cpu))
                losses[name] = result.val_loss or float("nan")
    rows = [
        {
            "backend": name,
            "tokens_per_s": round(statistics.median(speed for speed, _ in all_)),
            "cpu_s": round(statistics.median(cpu for _, cpu in all_), 2),
            "torch_is_faster_by": round(
                statistics.median(t[0] / o[0] for t, o in zip(took["torch"], all_, strict=True)), 2
            ),
            "cpu_ratio": round(statistics.median(o[1] / t[1] for t, o in zip(took["torch"], all_, strict=True)), 2),
            "val_loss": round(losses[name], 5),
        }
        for name, all_ in took.items()
    ]
    if given.json:
        print(json.dumps({"machine": said, "steps": given.steps, "rounds": given.rounds, "rows": rows}))
        return
    print(machine.line(said))
    print(f"medians of {given.rounds} rounds of {given.steps} steps of 2,048 tokens on {given.device}\n")
    print(f"{'backend':<8} {'tokens/s':>9} {'CPU s':>7} {'torch faster':>13} {'CPU ratio':>10} {'val loss':>9}")
    for row in rows:
        print(
            f"{row['backend']:<8} {row['tokens_per_s']:>9,} {row['cpu_s']:>7.2f} {row['torch_is_faster_by']:>12.2f}x"
            f" {row['cpu_ratio']:>9.2f}x {row['val_loss']:>9.5f}"
        )


if __name__ == "__main__":
    main()
