"""The experiment ledger, as a training script sees it.

    import ledger

    run = ledger.init(config={"lr": 0.02}, seed=0)
    for step in range(100):
        run.log({"train_loss": loss}, step=step)
    run.finish(val_bpb=1.21)

and to read: `ledger.open("warehouse").table("runs").polars()`. Importing this package loads neither
pyarrow nor DuckDB, and none of our other packages, ever.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.chain import Log
    from ledger.errors import Conflict, Corrupt, LedgerError, NotALedger, UsageError
    from ledger.reading import Ledger
    from ledger.reading import Ledger as open
    from ledger.tracking import Run, finish, init, log

_WHERE = {
    "init": ("ledger.tracking", "init"),
    "log": ("ledger.tracking", "log"),
    "finish": ("ledger.tracking", "finish"),
    "Run": ("ledger.tracking", "Run"),
    "open": ("ledger.reading", "Ledger"),
    "Ledger": ("ledger.reading", "Ledger"),
    "Log": ("ledger.chain", "Log"),
    "LedgerError": ("ledger.errors", "LedgerError"),
    "UsageError": ("ledger.errors", "UsageError"),
    "NotALedger": ("ledger.errors", "NotALedger"),
    "Conflict": ("ledger.errors", "Conflict"),
    "Corrupt": ("ledger.errors", "Corrupt"),
}

__all__ = [
    "Conflict",
    "Corrupt",
    "Ledger",
    "LedgerError",
    "Log",
    "NotALedger",
    "Run",
    "UsageError",
    "finish",
    "init",
    "log",
    "open",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module, attribute = _WHERE[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'ledger' has no attribute {name!r}")
