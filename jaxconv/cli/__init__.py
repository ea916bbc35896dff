"""The command line: arguments -> API, errors -> messages and exit codes. One module a command."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import typer

from jaxconv.errors import JaxconvError

INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The application with the commands of every module of this package."""
    app = typer.Typer(
        name="jaxconv",
        help="Turn causal-LM rerankers into sequence classifiers that vLLM serves, exactly.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
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
    """Runs one command. Returns 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        result = build_app()(args=arguments, standalone_mode=False)
        if result == INTERRUPTED:  # typer answers Ctrl-C by itself, without a word
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except JaxconvError as error:
        print(f"jaxconv: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("jaxconv: interrupted; nothing was published.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _usage_or_raise(error)


def _usage_or_raise(error: Exception) -> int:
    """Click's own errors (wrong flags) are shown as click shows them; anything else is a fault of ours."""
    show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is not None and isinstance(exit_code, int):
        show()
        return exit_code
    raise error


def run() -> None:
    """The console script."""
    sys.exit(main())
