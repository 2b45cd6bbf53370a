"""Ways to a board. Each module here is one, named after its scheme and found by it; what they share lies in ``common``.

A module exports ``TRANSPORT``, a subclass of ``common.base.Transport``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from pipeline.errors import UsageError, did_you_mean
from targets.transports.common.base import Transport


def known_schemes() -> list[str]:
    """Names of the transports: the modules of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg)


def transport_class(scheme: str) -> type[Transport]:
    """The transport of a scheme.

    Raises:
        UsageError: no such scheme.

    """
    if scheme not in known_schemes():
        raise UsageError("--on", f"unknown way to a board '{scheme}'", did_you_mean(scheme, known_schemes()))
    found: type[Transport] = importlib.import_module(f"{__name__}.{scheme}").TRANSPORT
    return found


def open_transport(where: str, say: Callable[[str], None]) -> Transport:
    """The transport that ``where`` names; nothing is connected yet.

    Args:
        where: ``scheme``, ``scheme:rest`` or ``scheme://rest``.
        say: called with each line meant for the user.

    Raises:
        UsageError: unknown scheme, or a rest that the scheme cannot read.

    """
    scheme, _, rest = where.partition(":")
    return transport_class(scheme)(rest.removeprefix("//"), say)


def around() -> list[str]:
    """Boards that are there without being named, as ``--on`` takes them: this machine, and what is connected to it."""
    return [where for scheme in known_schemes() for where in transport_class(scheme).around()]


def forms() -> str:
    """How each transport is written, for help texts."""
    return " | ".join(transport_class(s).form for s in known_schemes())
