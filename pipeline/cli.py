"""The command line: verbs found in ``pipeline/verbs/``, and every outcome mapped to an exit code in one place."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from pipeline import verbs
from pipeline.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, PipelineError, UsageError
from pipeline.processes import place

_ELSEWHERE = "name a folder that can be written to: --workspace for runs, --out for results"
_DISK = {
    errno.ENOSPC: "free some space ('python -m pipeline gc --keep 3' tells what the workspace can spare), or name another folder",
    errno.EDQUOT: "free some space, or name another folder",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG), _ELSEWHERE),
}
"""What the disk can refuse to any verb, wherever it writes, and the next step: none of it is a bug."""


def build_app() -> typer.Typer:
    """The application with every verb registered."""
    app = typer.Typer(
        name="pipeline",
        help="Distil, prune, quantize and compile an image-deblurring network for an edge device, and prove every step.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for module in sorted(m.name for m in pkgutil.iter_modules(verbs.__path__)):
        importlib.import_module(f"{verbs.__name__}.{module}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see ``pipeline.errors``)."""
    # Threads of a parallel region sleep instead of spinning while they wait: on a machine that anything else uses, spinning made
    # training three times slower. OpenMP reads this when it is loaded, that is, before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _refuse_torchrun(sys.argv[1:] if arguments is None else arguments)
        command = typer.main.get_command(build_app())
        code = command.main(args=list(arguments) if arguments is not None else None, prog_name="python -m pipeline", standalone_mode=False)
        return _interrupted() if code == EXIT_INTERRUPTED else int(code or EXIT_OK)  # typer turns Ctrl-C into this code
    except PipelineError as e:
        return _say(e)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except TyperException as e:
        return _usage(e)
    except BrokenPipeError:
        return EXIT_OK
    except Exception as e:  # noqa: BLE001 - the one place that turns a bug into an exit code
        return _unexpected(e)


def _interrupted() -> int:
    print("interrupted; the same command goes on where it stopped", file=sys.stderr)
    return EXIT_INTERRUPTED


def _unexpected(error: Exception) -> int:
    """A disk that refuses is told as it is; all else is a bug of ours, with its traceback."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return _say(UsageError(str(error.filename or "disk"), os.strerror(error.errno).lower(), _DISK[error.errno]))
    traceback.print_exception(error)
    print("internal error: this is a bug, please report it with the lines above and your pipeline file", file=sys.stderr)
    return EXIT_BUG


def _refuse_torchrun(arguments: Sequence[str]) -> None:
    verb = next((a for a in arguments if not a.startswith("-")), "run")
    if place()[1] > 1 and verb != "run":
        raise UsageError("torchrun", f"'{verb}' works in one process", f"python -m pipeline {verb} …; only 'run' shares its trainings")


def _say(error: PipelineError) -> int:
    if place()[0] == 0:  # all of torchrun's processes fail alike
        print(error, file=sys.stderr)
    return error.exit_code


def _usage(error: TyperException) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        print(message or error, file=sys.stderr)
        return UsageError.exit_code
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "python -m pipeline"
    return _say(UsageError(where, *_wrong(message, where)))


def _wrong(message: str, where: str) -> tuple[str, str]:
    """What is wrong with the command line, and the next step: the word that was meant, where the parser guesses one."""
    what, near = re.subn(r"\.? (\(Possible options: |Did you mean ).*", "", message)
    words = re.findall(r"--?[\w-]+|'[^']+'", message[len(what) :]) if near else []
    hint = f"did you mean {' or '.join(repr(w.strip(chr(39))) for w in words)}?" if words else f"see '{where} --help'"
    if "option '--target'" in message:
        hint = "say --target NAME; 'python -m pipeline targets' lists the names, and a path to a YAML of your own will do"
    return what[:1].lower() + what[1:].rstrip("."), hint
