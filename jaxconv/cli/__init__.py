"""The command line: arguments -> API, errors -> messages and exit codes. One module a command."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pkgutil
import sys
from functools import partial

import typer

from jaxconv.cli._output import discard_stdout, stdout_fails
from jaxconv.cli._signals import Interrupted, interruptible
from jaxconv.distributed.supervisor import supervised
from jaxconv.errors import JaxconvError

LOGGING = ("gcsfs", "google.auth", "s3fs", "adlfs", "azure")


def hyphenated(name: str) -> str:
    """The spelling of an option by which it is looked up: `--use_pad_token` is `--use-pad-token`.

    Args:
        name: The option as it was typed.
    """
    return name.replace("_", "-")


def build_app() -> typer.Typer:
    """The application with the commands of every module of this package."""
    app = typer.Typer(
        name="jaxconv",
        help="Turn causal-LM rerankers into sequence classifiers that vLLM serves, exactly.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        # vLLM's script spells its flags with underscores; both are taken, in every command.
        context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": hyphenated},
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "-V", "--version", help="Print the version and exit.", is_eager=True),
    ) -> None:
        if version:
            from jaxconv import __version__

            typer.echo(__version__)
            raise typer.Exit()

    for entry in pkgutil.iter_modules(__path__):
        if not entry.name.startswith("_"):
            importlib.import_module(f"{__name__}.{entry.name}").register(app)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line after the program's name; None for that of the process.

    Returns:
        0 done, 1 refused or failed, 2 wrong usage, 130 interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP).
    """
    if "--distributed" in (sys.argv[1:] if arguments is None else arguments):
        return supervised(partial(_run, arguments))
    return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    """Runs one command in this process."""
    for library in LOGGING:
        logging.getLogger(library).setLevel(logging.CRITICAL)  # what they log with a traceback, our errors say in a line
    try:
        with interruptible():
            result = build_app()(args=arguments, standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()  # here an error can still be reported
        return result if isinstance(result, int) else 0
    except JaxconvError as error:
        _say(" ".join([str(error), *getattr(error, "__notes__", ())]))
        return error.exit_code
    except Interrupted as interruption:
        _say(" ".join([f"interrupted by {interruption}.", *getattr(interruption, "__notes__", ())]))
        return interruption.exit_code
    except BrokenPipeError:
        discard_stdout()
        return 1
    except Exception as error:
        return _usage_or_raise(error)


def _say(message: str) -> None:
    """Prints a message to stderr; where that is closed or full, the exit code has to do."""
    with contextlib.suppress(OSError):
        print(f"jaxconv: {message}", file=sys.stderr, flush=True)


def _usage_or_raise(error: Exception) -> int:
    """Shows click's own errors (wrong flags) as click does, and a stdout that cannot be written; the rest is a bug."""
    show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is not None and isinstance(exit_code, int):
        show()
        return exit_code
    if isinstance(error, OSError) and stdout_fails():
        discard_stdout()
        _say(f"the result cannot be written to stdout: {error.strerror or error}.")
        return 1
    raise error


def run() -> None:
    """The console script. Writes UTF-8 whatever the locale, with escapes for what UTF-8 cannot hold (odd file names)."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # one that was closed: no file of the output may get its number, which C libraries print to
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(main())
