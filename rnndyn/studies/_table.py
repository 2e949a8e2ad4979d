"""Text tables."""

from collections.abc import Callable, Sequence


def columns(
    rows: Sequence[Sequence[str]], justify: Callable[[str, int], str] = str.ljust
) -> str:
    """Rows of text in columns, a line under the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(justify(v, w) for v, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
