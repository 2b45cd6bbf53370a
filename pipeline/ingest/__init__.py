"""Bringing a board's result back: is it this bundle, that board, the right output, a steady timing? Then the gates are judged again."""
