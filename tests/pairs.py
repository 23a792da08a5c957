"""Attention kinds with connections, for tests of what is built from both."""

from collections.abc import Iterable

from momentum_fairseq.modules import CONNECTIONS

OF_THE_PAPER = ("linear", "momentum", "softmax")


def pairs(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """The kinds of the paper with every connection, the others with the adaptive one, which has the most parts."""
    return [
        (attention, connection)
        for attention in sorted(kinds)
        for connection in sorted(CONNECTIONS)
        if attention in OF_THE_PAPER or connection == "adaptive"
    ]
