"""Layers of PyTorch by the names in their state dictionaries."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._gated import gru_blocks


def torch_layers(arrays: Mapping[str, Any]) -> list[str]:
    """What stands before every `weight_hh_l0`, or `weight_hh` of a cell."""
    ends = ("weight_hh_l0", "weight_hh")
    return [k.removesuffix(e) for e in ends for k in arrays if k.split(".")[-1] == e]


def torch_fields(path: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `load_network` from a state dictionary: an `nn.RNN` or `nn.GRU` of
    one layer, and the only linear layer on top of it, if there is one."""
    layers = torch_layers(arrays)
    if not layers:
        return dict(arrays)
    prefix = layers[0]
    mine = (prefix + "weight_", prefix + "bias_")
    inside = {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(mine)
    }
    more = [k for k in inside if "_l1" in k or "_hr_" in k or k.endswith("_reverse")]
    if more or len(layers) > 1:
        raise ValueError(
            f"{path} holds recurrent layers {layers} of PyTorch with "
            f"{sorted(more or inside)}, expected one layer in one direction. Write "
            "several as a Module of your own: `fixed_points` takes nested states."
        )
    short = {k.removesuffix("_l0"): v for k, v in inside.items()}
    w_ih, w_hh = short.get("weight_ih"), short["weight_hh"]
    b_ih, b_hh = short.get("bias_ih"), short.get("bias_hh")
    rows, size = np.shape(w_hh)
    rest = {k: v for k, v in arrays.items() if not k.startswith(mine)}
    fields: dict[str, Any] = {"tau": np.ones(())}
    if rows == size:
        fields |= {"form": "rate", "W": w_hh, "W_in": w_ih, "b": b_ih, "b_in": b_hh}
    elif rows == 3 * size:
        W, W_in, b, b_n = gru_blocks(w_ih, w_hh, b_ih, b_hh)
        fields |= {"form": "gru", "W": W, "W_in": W_in, "b": b, "b_n": b_n}
    else:
        raise ValueError(
            f"{path} has {prefix}weight_hh of shape {(rows, size)}, expected (state, "
            "state) of nn.RNN or (3 state, state) of nn.GRU. Write an LSTM as a Module "
            "of your own: `fixed_points` takes nested states."
        )
    linear = [k for k, v in rest.items() if k.endswith("weight") and np.ndim(v) == 2]
    if len(linear) == 1 and np.shape(rest[linear[0]])[1] == size:
        bias = linear[0].removesuffix("weight") + "bias"
        fields["W_out"] = rest.pop(linear[0])
        fields["b_out"] = rest.pop(bias, None)
    return {k: v for k, v in fields.items() if v is not None} | rest
