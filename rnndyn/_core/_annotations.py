"""What the annotations and docstrings of a result say about its fields."""

import functools
import inspect
import re
import types
import typing
from collections.abc import Sequence
from typing import Any


def hints(of: Any) -> dict[str, Any]:
    """Annotations of a class or function, resolved where possible."""
    try:
        return typing.get_type_hints(of)
    except (NameError, TypeError):  # a name that only type checkers import
        return dict(getattr(of, "__annotations__", {}))


def dims_of(annotation: Any) -> tuple[Any, ...] | None:
    """Dimensions of a jaxtyping annotation, or of the first in a union."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        found = (dims_of(part) for part in typing.get_args(annotation))
        return next((dims for dims in found if dims is not None), None)
    dims = getattr(annotation, "dims", None)
    return dims if isinstance(dims, tuple) else None


def is_variadic(dim: Any) -> bool:
    """Whether a dimension stands for any number of axes."""
    return "Variadic" in type(dim).__name__


def num_fixed(dims: tuple[Any, ...]) -> int:
    """How many axes an annotation has at least."""
    return sum(not is_variadic(d) for d in dims)


def axis_names(name: str, dims: tuple[Any, ...], inner: int) -> tuple[str, ...]:
    """Names of the axes behind the batch."""
    room = inner - num_fixed(dims)
    out: list[str] = []
    for i, dim in enumerate(dims):
        if is_variadic(dim):
            # At the front it stands for the batch, which has its names already.
            label = getattr(dim, "name", f"{name}_axis")
            out += [f"{label}{j}" for j in range(room)] if i else []
        elif hasattr(dim, "name"):
            out.append(dim.name)
        elif hasattr(dim, "elem"):  # an expression such as "segment+1"
            text = re.sub(r"\s+", "", dim.elem.replace("+", "_plus_"))
            out.append(re.sub(r"\W", "_", text.replace("-", "_minus_")))
        else:
            out.append(f"{name}_axis{i}")
    return tuple(out)


def distinct(dims: Sequence[str]) -> tuple[str, ...]:
    """A matrix `state state` has the axes `state` and `state_2`."""
    seen: dict[str, int] = {}
    out = []
    for dim in dims:
        seen[dim] = seen.get(dim, 0) + 1
        out.append(dim if seen[dim] == 1 else f"{dim}_{seen[dim]}")
    return tuple(out)


@functools.cache
def documentation(cls: type) -> dict[str, str]:
    """What the docstring's list says about each field."""
    text = inspect.cleandoc(cls.__doc__ or "")
    out: dict[str, str] = {}
    for item in re.split(r"^- ", text, flags=re.M)[1:]:
        item = " ".join(item.split("\n\n")[0].split())
        # "`low`, `high`: text", or two fields in one item.
        for head, body in re.findall(
            r"((?:`\w+`(?:,? (?:and )?)?(?:\([^)]*\)|`\([^)]*\)`)?\s?)+): (.+?)"
            r"(?=(?:; |\. )`\w+`: |$)",
            item,
        ):
            for name in re.findall(r"`(\w+)`", head):
                out[name] = body.rstrip(".;")
    return out
