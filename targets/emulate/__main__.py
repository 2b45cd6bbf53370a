"""``python -m targets.emulate [NAME…]``: build the sysroots that are not there yet (all, or those named)."""

from __future__ import annotations

import sys

from pipeline.errors import PipelineError
from targets.emulate.sysroot import build_sysroot
from targets.emulate.userlands import USERLANDS, userland


def main() -> int:
    """Build and print the folders; the exit code is the error's."""
    try:
        for name in sys.argv[1:] or USERLANDS:
            sys.stdout.write(f"{build_sysroot(userland(name))}\n")
    except PipelineError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
