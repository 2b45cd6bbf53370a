"""A bundle made ready on the board: hashes, the right board, the runtime; then the proof by the golden output."""

import argparse
import math
from typing import Any

from board.basics import HERE, DeviceError, Json, check_manifest, load_bundle, pick
from board.golden import golden_input, golden_psnr
from board.identity import check_board, device_facts
from board.runtimes import open_runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that run.py and bench.py share."""
    parser.add_argument("--artifact", default="", metavar="NAME", help="artifact of bundle.json (default: the one chosen for this board)")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads, 0 = all cores (default: the artifact's)")
    parser.add_argument("--verify", action="store_true", help="prove hashes, board and golden output: PASS or FAIL, exit 0 or 1")
    parser.add_argument("--force-board", action="store_true", help="go on when this is not the board that the bundle is for")


def threads(text: str) -> int:
    """A number of CPU threads."""
    number = int(text)
    if not 0 <= number <= 256:
        raise argparse.ArgumentTypeError("give 1 to 256, or 0 for all cores")
    return number


class Opened:
    """An artifact of this folder in its runtime.

    Raises:
        DeviceError: damaged files, another board, a missing runtime, an engine from elsewhere.

    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.files, self.bundle = check_manifest(), load_bundle()
        self.artifact: Json = pick(self.bundle, args.artifact)
        self.device = device_facts()
        self.device["board"] = check_board(self.bundle, self.artifact, self.device, args.force_board)
        self.threads = int(self.artifact["facts"].get("threads", 1)) if args.threads is None else args.threads
        self.runtime: Any = open_runtime(self.artifact, self.bundle, self.threads)
        self.device["runtime"] = self.runtime.version
        self.psnr, self.passed = math.nan, False

    def verify(self) -> str:
        """Run the golden input; sets ``psnr`` and ``passed`` and returns the line that says so."""
        bound = self.artifact["golden"]["psnr_at_least"]
        self.psnr = golden_psnr(self.runtime.run(golden_input(self.artifact)), self.artifact)
        self.passed = self.psnr >= bound
        text = f"{self.files} files as in the manifest, output {self.psnr:.1f} dB from the golden one (at least {bound:g})"
        return f"{'PASS' if self.passed else 'FAIL'} {self.artifact['name']}: {text}"

    def golden(self) -> Json:
        """The proof as result.json holds it: psnr in dB is null where the output is identical."""
        finite = self.psnr if math.isfinite(self.psnr) else None
        return {"psnr": finite, "identical": self.psnr == math.inf, "bound": self.artifact["golden"]["psnr_at_least"]}


def verify_only(args: argparse.Namespace) -> int:
    """Print PASS or FAIL with the reason; returns the exit status."""
    try:
        opened = Opened(args)
        print(opened.verify())
        opened.runtime.close()
    except DeviceError as e:
        print(f"FAIL {args.artifact or HERE.name}: {e}")
        return 1
    return 0 if opened.passed else 1
