"""What cells of the notebooks end in besides figures: tables, and the library's source."""

import inspect
from collections.abc import Callable, Sequence

from IPython.display import Code, Markdown


def source(function: Callable) -> Code:
    """The source of a function of the library, with its docstring."""
    return Code(inspect.getsource(inspect.unwrap(function)), language="python")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """A table; columns of numbers are aligned to the right."""
    rule = [
        "--:" if all(isinstance(value, (int, float)) for value in column) else ":--"
        for column in zip(*rows, strict=True)
    ]
    return Markdown("\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, rule, *rows)))
