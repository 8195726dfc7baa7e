"""The emulator's rule for tokens: a quarter of the text's UTF-8 bytes, rounded up.

A real tokenizer would bring downloads and tables, and an emulated bill needs neither. The rule is stated so that a
client's tests can work out exact figures.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 4


def count(*texts: str) -> int:
    """Return the tokens of all ``texts`` together."""
    size = sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return -(-size // BYTES_PER_TOKEN)


def cut(text: str, limit: int) -> str:
    """Return the longest beginning of ``text`` that has at most ``limit`` tokens and ends on a whole character."""
    return text.encode("utf-8", "replace")[: limit * BYTES_PER_TOKEN].decode("utf-8", "ignore")
