"""Text that compresses about as well as prose, the same for the same seed."""

import random

WORDS = [random.Random(number).randbytes(3).hex() for number in range(2000)]


def prose(seed: str, words: int = 71) -> str:
    """Return a text of *words* words of seven bytes, another one for each *seed*."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))
