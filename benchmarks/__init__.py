"""The measured claims of the README, each one command: `python -m benchmarks.NAME`."""
