"""What run.py and bench.py share on the board. Python 3.6, the standard library, numpy and the artifact's runtime; nothing else."""

import sys

try:
    import numpy  # noqa: F401 (what is missing is said once, here)
except ImportError as missing:
    sys.stderr.write("error: {}: pip install numpy (or: apt-get install python3-numpy)\n".format(missing))
    sys.exit(2)
