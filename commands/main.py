"""The `ledger` command: a lazy group, and the one place where an error becomes a line and a code.

Printing help imports click and nothing heavier; a verb's module is imported when the verb is used.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import importlib
import keyword
import os
import re
import sys
from typing import Any, NoReturn

import click

from ledger.errors import LedgerError

# verb: (module, one line for `ledger --help`), in the order in which people meet them
VERBS: dict[str, str] = {
    "init": "Make a folder a ledger.",
    "run": "Register a plan, run what is missing, decide, print.",
    "plan": "Register a plan before its runs; say what it can see.",
    "extract": "Read leaderboard records into the log.",
    "import": "Bring other tools' results into the log.",
    "log": "List events, newest last.",
    "show": "Show an event, a run or an experiment.",
    "status": "What the ledger holds, and what is running.",
    "sql": "Query the tables, read-only.",
    "matrix": "Show which record or arm has which technique.",
    "audit": "Recompute what leaderboard records claim.",
    "decide": "Decide an experiment on the runs that are there.",
    "reproduce": "Train a run again from what the log holds, and compare.",
    "dag": "Revise, show or compare the causal DAG.",
    "next": "Rank what to run next, with reasons; write its plan.",
    "cycle": "Rank, run, decide, until a stop rule holds.",
    "replay": "Judge again as of the head that a judgement read, and compare.",
    "report": "Write a Markdown page with plots on an experiment.",
    "plot": "Plot loss curves of each arm against the control.",
    "verify": "Prove that the log is what was written.",
    "checkpoint": "Sign the present head; keep a copy elsewhere.",
    "prove": "Write a proof of an event, or of growth since a size.",
    "keys": "List the keys that sign heads; rotate or revoke one.",
    "compact": "Make few files of many; nothing else changes.",
    "repair": "Say what can be done about damage, or do it.",
    "rebuild": "Rebuild the tables and print their digests.",
    "export": "Write a table to a file, or describe the files to Delta.",
    "retract": "Take an event back from here on.",
    "doctor": "Check the machine, the folder and the ledger.",
}


class Lazy(click.Group):
    """Imports a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(
            f"commands.{cmd_name}{'_' * keyword.iskeyword(cmd_name)}"
        ).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            close = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f"did you mean `ledger {close[0]}`?" if close else "`ledger --help` lists what there is."
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"ledger {version('experiment-ledger')}")
        ctx.exit()


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--ledger", metavar="PATH", help="The ledger's folder (default: $LEDGER_HOME, else ./warehouse).")
@click.option("--json", "as_json", is_flag=True, help="Print data as JSON: one object, or one line a row.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def cli(ctx: click.Context, ledger: str | None, as_json: bool, debug: bool) -> None:
    """What may you claim from your training runs, and can you prove it?

    Every run, result and decision is an immutable event; every table is rebuilt from the events.
    """
    ctx.obj = {"ledger": ledger, "json": as_json, "debug": debug}


def main() -> NoReturn:
    """Entry point of `ledger`. Exit codes: 0 done, 1 a check did not hold, 2 usage, 3 integrity, 4 conflict."""
    code = run(sys.argv[1:])
    # About one process in a hundred was aborted by a C++ library's threads while the interpreter shut down
    # ("terminate called without an active exception"), and its exit code lost: so end without that.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; its exit code. No traceback leaves it unless --debug asks for one."""
    debug = "--debug" in arguments[: arguments.index("--")] if "--" in arguments else "--debug" in arguments
    try:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by the caller (`ledger log >&-`)
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the life of the process
        result: Any = cli.main(args=arguments, prog_name="ledger", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except LedgerError as error:
        return _say(str(error), error.exit_code, debug)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.NoSuchOption as error:
        path = error.ctx.command_path if error.ctx else "ledger"
        hint = "; put -- before the program whose option it is" if path == "ledger run" else ""
        return _say(error.format_message().rstrip(".") + hint, 2, debug, path)
    except click.BadParameter as error:
        path = error.ctx.command_path if error.ctx else "ledger"
        return _say(f"{error.format_message().rstrip('.')}{_meant(error)}", 2, debug, path)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ledger"
        return _say(error.format_message(), 2, debug, path)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", 130, debug=False)
    except (BrokenPipeError, SystemExit):  # click and rich exit by themselves on a broken pipe
        # The reader of our pipe has gone (`ledger log | head`): nothing is wrong.
        _drop_output()
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT) and not error.filename:
            _drop_output()
            return _say(f"the output cannot be written: {os.strerror(error.errno)}", 1, debug)
        return _unexpected(error, debug)
    except Exception as error:
        if str(error) == "Query interrupted":  # DuckDB's own way to tell of Ctrl-C
            return _say("interrupted", 130, debug=False)
        return _unexpected(error, debug)


def _meant(error: click.BadParameter) -> str:
    """Which of the words that may stand there was probably meant."""
    said = re.match(r"'(.*)' is not one of ", error.message)
    choices = error.param.type.choices if error.param and isinstance(error.param.type, click.Choice) else ()
    close = difflib.get_close_matches(said[1], map(str, choices), 1) if said else []
    return f"; did you mean {close[0]}?" if close else ""


def _unexpected(error: Exception, debug: bool) -> int:
    text = f"{type(error).__name__}: {error}".strip()
    return _say(f"unexpected error: {text} (run again with --debug for the traceback)", 1, debug)


def _drop_output() -> None:
    """What is still buffered for stdout goes nowhere; Python would complain about it at the exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, code: int, debug: bool, prefix: str = "ledger") -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"{prefix}: {' '.join(message.split())}", file=sys.stderr)
    return code
