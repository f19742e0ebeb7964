"""Entry point of the command, by a name that no user's folder has.

Our packages are called `ledger`, `commands`, `projections` and `runners`, and a training repository
on PYTHONPATH may well have a folder `runners` too. So they are loaded from beside this file, whatever
the path says, before anything is imported by name.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the `ledger` command with our own packages."""
    here = Path(__file__).resolve().parent
    for name in ("ledger", "commands", "projections", "runners"):
        folder = here / name
        spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    from commands.main import main as command

    command()


if __name__ == "__main__":
    main()
