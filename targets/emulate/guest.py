"""Runs in the emulated machine, beside the scripts of a bundle: every artifact of request.json on lq.npy; writes output<k>.npy."""

import importlib
import json
import platform
from pathlib import Path


def main() -> None:
    """Read the request, run, write what came out."""
    import numpy as np

    here = Path(__file__).resolve().parent
    open_runtime = importlib.import_module("board.runtimes").open_runtime  # of the bundle's scripts
    request = json.loads((here / "request.json").read_text())
    lq = np.load(str(here / "lq.npy"))
    versions = []
    for k, artifact in enumerate(request["artifacts"]):
        runner = open_runtime(artifact, request, 1)
        for _ in range(request["repeat"]):
            output = runner.run(lq)
        np.save(str(here / f"output{k}.npy"), output)
        versions.append(runner.version)
    answer = {"runtimes": versions, "machine": platform.machine(), "libc": " ".join(platform.libc_ver())}
    (here / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
