"""How a program in single precision is held to a slow reference in double precision, on any processor.

A number that one machine was off by is no bound: other kernels sum in another order. Two statements hold on all of them.

1. In double precision the program *is* its formula. `Double` runs the program as it stands with float64 wherever it says float32, and
   what it gives is the reference's to `EXACT` of the range.
2. In single precision it is off by what its conditioning makes of rounding. Each operation gives what an exact one would of operands
   moved in their last place (backward stability: Higham, Accuracy and Stability of Numerical Algorithms, 2002, ch. 2-3). So the
   program is run in double precision with every operand of every operation moved at random by `UNIT`, as Monte Carlo arithmetic does
   (Parker 1997), a few times; single precision may be `FACTOR` times as far away as the farthest of these runs.

`FACTOR` pays for what a random draw leaves out: a sum of n terms rounds up to n times, in blocks and at random about sqrt(n / block)
times, which is under 10 for the longest sums here (a few thousand terms); and the largest of a few draws is not the largest there is.

A number that no network is behind is held to so many roundings (`near`); what is stored with 8 bits to half a step of its range.
"""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from pipeline.backbones.cutting.linear_head import pooled_linear

UNIT = 2.0**-24  # what rounding once to single precision moves a number by at most, relative to it
UNIT64, UNIT16 = 2.0**-53, 2.0**-11  # to double and to half precision
STEP = 1 / 255  # of a map's range: neighbouring values of 8 bits; a stored map is off by half of it
DOUBLE = {"rtol": 2.0**-44, "atol": 2.0**-44}  # two ways in double precision to a number of size one: five hundred roundings
DRAWS, FACTOR = 3, 16
EXACT = FACTOR * 2.0**-29  # of the range: a map that single precision knows anything of, double knows 2^29 times as well
RANDOM = {"rand", "randn", "normal", "rand_like", "randn_like"}
# one rounding a number, of the result; what single precision can hold is not moved: 1 - 1 is 0 on every processor
ROUNDED = {
    "add", "sub", "rsub", "mul", "rmul", "div", "truediv", "rtruediv", "rdiv", "pow", "square", "sqrt", "exp", "log", "sigmoid", "logsigmoid",
    "rsqrt", "reciprocal", "addcmul", "softplus", "tanh", "gelu", "silu", "hardswish", "hardsigmoid", "lerp", "interpolate",
}  # fmt: skip
# sums of many: their operands
SUMMED = {
    "sum", "mean", "cumsum", "var", "std", "norm", "normalize", "matmul", "rmatmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "linear", "conv2d",
    "conv_transpose2d", "batch_norm", "layer_norm", "group_norm", "softmax", "log_softmax", "logsumexp", "avg_pool2d", "adaptive_avg_pool2d",
    "rms_norm", "std_mean", "var_mean", "scaled_dot_product_attention", "multi_head_attention_forward",
}  # fmt: skip


class Double(TorchFunctionMode):
    """Within it torch computes in float64 where a program says float32; chance falls as it does in float32.

    Parameters:
        draw: seed of the moves of operands by UNIT; None moves nothing.
    """

    def __init__(self, draw: int | None = None) -> None:
        super().__init__()
        self.noise = None if draw is None else torch.Generator().manual_seed(draw)

    def __enter__(self):
        self.default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error):
        torch.set_default_dtype(self.default)
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if func is Tensor.float:
            return args[0].double()
        if name in RANDOM and "dtype" not in kwargs:
            value = func(*args, **kwargs, **({} if name.endswith("like") or name == "normal" else {"dtype": torch.float32}))
            return value.double()
        args, kwargs = tree_map(lambda value: torch.float64 if value is torch.float32 else value, (args, kwargs))
        if self.noise is None:
            return func(*args, **kwargs)
        in_place = name.endswith("_") and not name.startswith("__")
        if name.strip("_") in SUMMED:
            args, kwargs = (*args[:in_place], *tree_map(self._moved, args[in_place:])), tree_map(self._moved, kwargs)
        value = func(*args, **kwargs)
        if name.strip("_") not in ROUNDED or not isinstance(value, Tensor) or any(value is one for one in args):
            return value
        return torch.where(value == value.float(), value, self._moved(value))

    def _moved(self, value):
        if not isinstance(value, Tensor) or value.dtype != torch.float64:
            return value
        signs = torch.randint(2, value.shape, generator=self.noise, dtype=torch.int8)
        return value * (1 + (2 * signs - 1) * UNIT)


def widened(given):
    """The same backbone, module, tensor, or tuple of them, in double precision, to be asked within `Double`."""
    if isinstance(given, tuple):
        return tuple(map(widened, given))
    if isinstance(given, Tensor | nn.Module):
        wide = copy.deepcopy(given)
        return wide.double() if isinstance(given, nn.Module) or given.is_floating_point() else wide
    wide = copy.deepcopy(given)
    wide.cut.to(torch.float64)
    tensors = {f.name: getattr(wide, f.name) for f in dataclasses.fields(wide) if isinstance(getattr(wide, f.name), Tensor)}
    tensors = {name: value.double() for name, value in tensors.items()}
    if wide.pooled_linear is not None:  # `load` has measured it in single precision
        with Double():
            A, rest = wide.trunk(wide.prepare(torch.zeros(2, 3, *wide.image_size, dtype=torch.uint8)))
            tensors["pooled_linear"] = pooled_linear(wide.head, A, rest)
    return dataclasses.replace(wide, **tensors)


def doubled(backbone, images: Tensor) -> Tensor:
    """What the network takes of uint8 images [B 3 H W], in double precision."""
    with Double():
        return backbone.prepare(images)


def rounding(program: Callable[[], Tensor], draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """What the program gives in double precision [B ...], and how far single precision may be from each [B].

    Parameters:
        program: gives maps, or rows of numbers, of the networks it has in double precision.
    """
    with Double():
        exact = program().detach()
    furthest = _rows(exact).abs().amax(1) * UNIT  # what the result is rounded by when it is stored
    for draw in range(draws):
        with Double(draw):
            furthest = torch.maximum(furthest, off(program(), exact))
    return exact, FACTOR * furthest


def slack(program: Callable, *given, draws: int = DRAWS, wide: tuple | None = None) -> Tensor:
    """How far single precision may be from what the program gives of what is given [B]: two of its outcomes may be twice that apart."""
    wide = wide or widened(given)
    return rounding(lambda: program(*wide), draws)[1]


def off(ours, theirs) -> Tensor:
    """The largest difference of each row [B ...] of two arrays [B]."""
    return (_rows(ours) - _rows(theirs)).abs().amax(1)


def near(expected, roundings: int = 1, unit: float = UNIT64, size: float = 0.0):
    """What is off by so many roundings to a format, of the number itself or of what it was made of, `size`."""
    return pytest.approx(expected, rel=roundings * unit, abs=roundings * unit * size)


def is_stored(found, exact, slack=0.0) -> None:
    """Maps [B ...] that went through 8 bits are those they were: off by half a step of their range, and by rounding before and after."""
    rows = _rows(exact)
    span, size = rows.amax(1) - rows.amin(1), rows.abs().amax(1)
    assert (off(found, exact) <= STEP / 2 * (span + 2 * slack) + slack + FACTOR * UNIT * size).all()


def by_eight_bits(formula: Callable, *maps, draws: int = DRAWS):
    """How far numbers are from what they are of stored maps [h w] (numpy): as far as half a step of each, at random, makes them, times FACTOR."""
    noise, exact = np.random.default_rng(0), np.asarray(formula(*maps))
    moves = [[M + noise.choice([-0.5, 0.5], M.shape) * STEP * np.ptp(M) for M in maps] for _ in range(draws)]
    return FACTOR * np.max([abs(np.asarray(formula(*moved)) - exact) for moved in moves], 0)


def agree_exactly(exact, expected) -> None:
    """What was computed in double precision [B ...] is what the reference says in it."""
    rows = _rows(expected)
    size = rows.abs().amax(1)
    span = rows.amax(1) - rows.amin(1) if rows.shape[1] > 1 else size
    far = off(exact, expected)
    assert (far <= EXACT * span + FACTOR * UNIT64 * size).all(), f"not its formula: {far.tolist()} of a range of {span.tolist()}"


def agree(program: Callable, given, expected, draws: int = DRAWS, wide: tuple | None = None) -> Tensor | None:
    """`program` is its formula in double precision, and in single precision as far as rounding leaves it (above).

    Parameters:
        program: what is given -> maps or rows of numbers [B ...], those of as many images.
        given: a backbone, a module, a tensor, or a tuple of what the program takes.
        expected: the same in double precision, from a reference of its own [B ...]; or another program that comes to the same.
        draws: runs with moved operands: more where a rare jump counts; 0 where single precision does not determine the result at all,
            for a reason that the caller states.
        wide: what is given in double precision, where it was `widened` before.

    Returns how far single precision may be from each [B], if anything was drawn.
    """
    given = given if isinstance(given, tuple) else (given,)
    wide = wide or widened(given)
    if callable(expected):
        with Double():
            expected = expected(*wide)
    exact, slack = rounding(lambda: program(*wide), draws)
    agree_exactly(exact, expected)
    if not draws:
        return None
    rows = _rows(expected)
    size = torch.maximum(rows.amax(1) - rows.amin(1), rows.abs().amax(1))
    far = off(program(*given), exact)
    assert (slack <= 0.5 * size).all(), f"rounding may do anything: {slack.tolist()} of {size.tolist()}"
    assert (far <= slack).all(), f"off by more than rounding: {far.tolist()}, not {slack.tolist()}"
    return slack


def _rows(values) -> Tensor:
    values = torch.as_tensor(values).detach().double()
    return values[:, None] if values.dim() == 1 else values.flatten(1)
