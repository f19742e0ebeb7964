"""What may be claimed from training runs: pure functions from numbers to verdicts.

`judging.judge(policy, inputs)` is the way in. Each file below it is one idea with its formula and
its source. Nothing here reads the log, a clock, a file or chance; a bootstrap takes its seed.
"""
