"""What run.py and bench.py share on the board. Python 3.6, the standard library, numpy and the artifact's runtime; nothing else."""
