"""Results as dictionaries and labelled arrays, from their own annotations."""

import dataclasses
import enum
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._annotations import (
    axis_names,
    dims_of,
    distinct,
    documentation,
    hints,
    is_variadic,
    num_fixed,
)
from ._verdicts import Verdict


class Result(eqx.Module):
    """A result that can leave Python: inherit it, annotate the fields, and both
    methods work.

    Exported are the public fields and the properties annotated with shapes. A field's
    `metadata` may hold `units`, `dims` (for fields that have no shape in their
    annotation), `flags` (an `IntEnum` of its codes) and `export=False`.
    """

    def to_dict(self) -> dict[str, Any]:
        """Arrays as NumPy, scalars, and nested dictionaries; see `to_dict`."""
        return to_dict(self)

    def headline(self) -> str | None:
        """What was found in one line, for `repr`; `None` shows all fields."""
        return None

    def __repr__(self) -> str:
        try:
            line = self.headline()
        except Exception:  # traced, or a part of a result: a repr never fails
            line = None
        return super().__repr__() if line is None else f"{type(self).__name__}({line})"

    def to_xarray(self, batch: Sequence[str] | None = None) -> Any:
        """An `xarray.Dataset` that netCDF and zarr can store; see `to_xarray`."""
        return to_xarray(self, batch)


class _Stability(enum.IntEnum):
    stable = -1
    undecided = 0
    unstable = 1


_FLAGS: dict[str, type[enum.IntEnum]] = {"verdict": Verdict, "stability": _Stability}
# What a result was computed from, not what was computed.
_INPUTS = {"problem", "model", "system", "args", "mesh"}


class _Entry(typing.NamedTuple):
    """One exported value: its annotated dimensions if it has any, and notes."""

    value: Any
    dims: tuple[Any, ...] | None
    meta: Mapping[str, Any]


def to_dict(result: Any) -> dict[str, Any]:
    """The numbers of a result in plain containers.

    Arrays become NumPy arrays, arrays without axes NumPy scalars, nested results
    nested dictionaries; numbers and strings stay. Codes such as `verdict` stay codes,
    with their names beside them as `verdict_name`. Networks, vector fields and other
    inputs are left out. Host level.

    ```python
    pts = rd.dynamics.fixed_points(f, x0s)
    table = to_dict(pts)
    table["x"], table["verdict_name"], table["stats"]["num_steps"]
    ```

    **Arguments:**

    - `result`: a result of `rnndyn`, plain or batched by `vmap`.

    **Returns:** a dictionary by field name. Not guaranteed: that a result can be built
    from it again.
    """
    out: dict[str, Any] = {}
    for name, entry in _entries(result).items():
        out[name] = _plain(entry.value)
        flags = _flags(name, entry)
        if flags is not None:
            table = {int(code): code.name for code in flags}
            look_up = np.vectorize(
                lambda c, t=table: t.get(int(c), "?"), otypes=["U24"]
            )
            out[f"{name}_name"] = look_up(np.asarray(entry.value))[()]
    return out


def xarray_module() -> Any:
    """The package xarray. Raises an `ImportError` that says how to install it."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            "to_xarray needs xarray, which is not installed. Run "
            'pip install "rnndyn[data]", or use to_dict.'
        ) from error
    return xarray


def to_xarray(result: Any, batch: Sequence[str] | None = None) -> Any:
    """The numbers of a result as an `xarray.Dataset`.

    The dimensions are named as in the annotations of the fields (`slots`, `state`,
    `crossings`, ...); axes that `vmap` put in front are named by `batch`. A complex
    field becomes two variables `_re` and `_im`. Codes carry `flag_values` and
    `flag_meanings` (CF conventions 3.5). Strings and plain numbers become attributes;
    variables of nested results carry the name of the field in front, as in
    `stats_num_steps`; a field `state` beside an axis `state` is called `state_value`.
    Host level.

    ```python
    pts = eqx.filter_vmap(lambda W: rd.dynamics.fixed_points(Net(W), x0s))(Ws)
    data = to_xarray(pts, batch=("network",))
    data.to_zarr("points.zarr")
    data.x.where(data.mask).isel(network=0)
    ```

    **Arguments:**

    - `result`: a result of `rnndyn`.
    - `batch`: names of the leading axes, outermost first; not used for a plain result.
        By default one axis is "network", or what the annotation calls it.

    **Returns:** a `Dataset`. Raises `ImportError` where xarray is missing, `ValueError`
    where `batch` does not have one name for every leading axis or where the axes of two
    fields contradict each other. Not guaranteed: coordinates; the axes are counted from
    0.

    **Reference:** B. Eaton et al., CF Metadata Conventions 1.11.
    """
    xarray = xarray_module()
    if batch is not None:
        batch = (batch,) if isinstance(batch, str) else tuple(batch)
    variables: dict[str, Any] = {}
    attrs: dict[str, Any] = {"result": type(result).__name__}
    _collect(result, batch, "", variables, attrs)
    axes = {dim for dims, _, _ in variables.values() for dim in dims}
    # To xarray a variable with the name of an axis is its coordinate.
    clash = {n for n in variables if n in axes and tuple(variables[n][0]) != (n,)}
    variables = {
        f"{name}_value" if name in clash else name: variable
        for name, variable in variables.items()
    }
    sizes: dict[str, tuple[int, str]] = {}
    for name, (dims, array, _) in variables.items():
        for dim, size in zip(dims, array.shape, strict=True):
            known, where = sizes.setdefault(dim, (size, name))
            if known != size:
                raise ValueError(
                    f"the axis {dim!r} has length {known} in {where!r} and {size} in "
                    f"{name!r}, expected one length. Was the result cut by hand, or "
                    "does `batch` repeat the name of another axis?"
                )
    return xarray.Dataset(variables, attrs=attrs)


def _collect(result, batch, prefix, variables, attrs) -> None:
    entries = _entries(result)
    count = _num_batch(entries)
    if batch is None:
        batch = (_default_batch(entries),)
    if count and count != len(batch):
        raise ValueError(
            f"the result has {count} leading axes but `batch` = {batch}. Pass one name "
            'for each, outermost first, as in batch=("network", "start").'
        )
    leading = batch[:count]
    by_shape = _dims_by_shape(entries, count)
    for name, entry in entries.items():
        value, full = entry.value, prefix + name
        if _is_result(value):
            # Many results in one field: their axis is called as the field is.
            more = _num_batch(_entries(value)) - count
            inner_batch = (*leading, *(name,) * more) if more > 0 else leading
            _collect(value, inner_batch, full + "_", variables, attrs)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                inner = f"{name}_{key}"
                _add(prefix + inner, inner, _Entry(item, None, {}), leading, by_shape,
                     variables, attrs)  # fmt: skip
        else:
            _add(full, name, entry, leading, by_shape, variables, attrs)


def _add(full, name, entry, leading, by_shape, variables, attrs) -> None:
    value, notes = entry.value, _notes(name, entry)
    if not _is_array(value):
        if isinstance(value, Sequence) and not isinstance(value, str):
            if "dims" in entry.meta:
                variables[full] = (entry.meta["dims"].split(), np.array(value), notes)
                return
            value = [_attribute(v) for v in value]
        if value is not None:
            attrs[full] = value if isinstance(value, list) else _attribute(value)
        return
    array = np.asarray(value)
    inner = array.ndim - len(leading)
    if entry.dims is not None:
        names = axis_names(name, entry.dims, inner)
    elif "dims" in entry.meta:
        names = entry.meta["dims"].split()
    else:
        known = by_shape.get(array.shape[len(leading) :], set())
        generic = tuple(f"{name}_axis{i}" for i in range(inner))
        names = next(iter(known)) if len(known) == 1 else generic
    dims = distinct((*leading, *names))
    if np.iscomplexobj(array):
        variables[full + "_re"] = (dims, np.real(array), notes | {"part": "real"})
        variables[full + "_im"] = (dims, np.imag(array), notes | {"part": "imaginary"})
    else:
        variables[full] = (dims, array, notes)


def _entries(result: Any) -> dict[str, _Entry]:
    """The exported fields, then the properties with shapes in their annotations."""
    cls = type(result)
    annotated = hints(cls)
    about = documentation(cls)
    out: dict[str, _Entry] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        meta = dict(field.metadata)
        if field.name.startswith("_") or not meta.get("export", True):
            continue
        if field.name in _INPUTS or not _exportable(value):
            continue
        meta.setdefault("about", about.get(field.name, ""))
        out[field.name] = _Entry(value, dims_of(annotated.get(field.name)), meta)
    count = _num_batch(out)
    for name, prop in inspect.getmembers(cls, lambda m: isinstance(m, property)):
        annotation = hints(inspect.unwrap(prop.fget)).get("return")
        dims = dims_of(annotation)
        if name.startswith("_") or dims is None or name in out:
            continue
        # A property annotated for one network is taken of each.
        each = count if num_fixed(dims) == len(dims) else 0
        out[name] = _Entry(
            _property(result, name, each), dims, {"about": about.get(name, "")}
        )
    return out


def _property(result: Any, name: str, batch: int) -> Any:
    if not batch:
        return getattr(result, name)
    get = lambda r: getattr(r, name)
    for _ in range(batch):
        get = eqx.filter_vmap(get)
    with jax.enable_x64(True):  # or NumPy's float64 would be rounded
        arrays = lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a
        return get(jax.tree.map(arrays, result))


def _num_batch(entries: Mapping[str, _Entry]) -> int:
    """How many axes `vmap` put in front of what the annotations say."""
    extra = {
        name: np.ndim(e.value) - num_fixed(e.dims)
        for name, e in entries.items()
        if e.dims is not None
        and _is_array(e.value)
        and not any(is_variadic(d) for d in e.dims[1:])
    }
    if len(set(extra.values())) > 1 or min(extra.values(), default=0) < 0:
        raise ValueError(
            f"the fields have {extra} axes more than annotated, expected the same "
            "number for all. Batch whole results with `equinox.filter_vmap`."
        )
    return next(iter(extra.values()), 0)


def _default_batch(entries: Mapping[str, _Entry]) -> str:
    """The name that the annotations give to the leading axes, if it says anything."""
    for entry in entries.values():
        if entry.dims and is_variadic(entry.dims[0]):
            name = getattr(entry.dims[0], "name", "net")
            return "network" if name in ("net", "batch") else name
    return "network"


def _dims_by_shape(entries, count) -> dict[tuple, set]:
    """Axis names of the annotated fields by shape, for arrays in plain dictionaries."""
    out: dict[tuple, set] = {}
    for name, entry in entries.items():
        if entry.dims is not None and _is_array(entry.value):
            shape = np.shape(entry.value)[count:]
            out.setdefault(shape, set()).add(axis_names(name, entry.dims, len(shape)))
    return out


def _flags(name: str, entry: _Entry) -> type[enum.IntEnum] | None:
    flags = entry.meta.get("flags", _FLAGS.get(name.removeprefix("start_")))
    is_code = _is_array(entry.value) and np.asarray(entry.value).dtype.kind in "iu"
    return flags if flags is not None and is_code else None


def _notes(name: str, entry: _Entry) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if entry.meta.get("about"):
        notes["description"] = entry.meta["about"]
    if "units" in entry.meta:
        notes["units"] = entry.meta["units"]
    flags = _flags(name, entry)
    if flags is not None:
        kind = np.asarray(entry.value).dtype
        notes["flag_values"] = np.array([int(code) for code in flags], kind)
        notes["flag_meanings"] = " ".join(code.name for code in flags)
    return notes


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_result(value: Any) -> bool:
    """A module that says what shapes it holds."""
    if not isinstance(value, eqx.Module):
        return False
    return any(dims_of(hint) is not None for hint in hints(type(value)).values())


def _exportable(value: Any) -> bool:
    if _is_array(value):
        return not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if isinstance(value, Mapping):
        return True
    if isinstance(value, list | tuple):
        return all(isinstance(v, str | bool | int | float) for v in value)
    return value is None or isinstance(value, str | bool | int | float) or _is_result(
        value
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if _is_array(value):
        return np.asarray(value)[()]
    if _is_result(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if _exportable(v)}
    return value


def _attribute(value: Any) -> Any:
    """netCDF knows no booleans and no enums in attributes."""
    return int(value) if isinstance(value, bool | enum.IntEnum) else value
