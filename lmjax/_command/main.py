"""The commands, and how they end."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import jax

import lmjax
from lmjax._command import demo, fit, models
from lmjax._files.problem import FileProblem
from lmjax._interrupt import STOPPED

REFUSED = 2  # how a command ends whose request or file cannot be used


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} ({self.prog} --help)", file=sys.stderr)
        raise SystemExit(REFUSED)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done. 1: some fits failed, with ``--strict``. 2: the request or a file cannot be
    used; one line says why, and nothing was overwritten. 130: stopped by Ctrl-C.
    """
    parser = _Parser(prog="lmjax", description=lmjax.__doc__)
    parser.add_argument("--version", action="version", version=lmjax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (fit, models, demo):
        command.add_to(commands)
    options = parser.parse_args(argv)
    try:
        return options.run(options)
    except FileProblem as error:
        print(f"lmjax: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as error:
        print(f"\nlmjax: stopped. {error}".rstrip(), file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run() -> int:
    """Run the command line of a process of its own."""
    _keep_programs()
    return main()


def _keep_programs() -> None:
    """Let jax keep what it compiles between commands, in ``~/.cache/lmjax``.

    LMJAX_CACHE names another folder; set to nothing, it switches this off.
    """
    folder = os.environ.get("LMJAX_CACHE", str(Path.home() / ".cache" / "lmjax"))
    if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
