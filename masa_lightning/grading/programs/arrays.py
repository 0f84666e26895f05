"""Whether a function of numpy's repeats what a program gave until it fits, told by shapes."""

from __future__ import annotations

import functools
from typing import Any, Final

_Shape = tuple[int, ...]

# What makes arrays of a size, puts arrays beside one another, or looks them up: a result may be bigger than what is given.
_OTHERS: Final = """
    RandomState append arange array array_equal asanyarray asarray assert_array_equal atleast_1d atleast_2d
    atleast_3d block column_stack compress concatenate convolve correlate default_rng diag diagflat digitize
    dstack empty eye frombuffer fromiter geomspace hstack identity indices interp ix_ kron linspace logspace
    meshgrid ones outer polyval searchsorted seed stack take tri vstack zeros
"""
_PRODUCTS: Final = ("dot", "matmul", "inner", "vdot", "tensordot", "cross")
_MODULES: Final = ("numpy.linalg", "numpy.fft", "numpy.polynomial")


def is_numpys(function: Any) -> bool:
    """Returns whether something that is called is of numpy's: a function, a class, or a method of an array."""
    while isinstance(function, functools.partial):
        function = function.func
    of = (function, type(function), type(getattr(function, "__self__", None)))
    return any(str(getattr(part, "__module__", "")).partition(".")[0] == "numpy" for part in of)


def compares(function: Any, numpy: Any) -> bool:
    """Returns whether a function of numpy's combines its first two arguments as an operator does."""
    kinds = numpy.ufunc | numpy.vectorize
    return isinstance(function, kinds) or function in (numpy.ma.allequal, numpy.ma.allclose)


def repeats(function: Any, of_program: tuple[bool, ...], given: tuple[Any, ...], result: Any, numpy: Any) -> bool:
    """Returns whether a call may have repeated what the program gave: it has another shape than what it was put beside.

    Args:
        function: What was called, of numpy's.
        of_program: Of the arguments of the call, which hold something of the program.
        given: All arguments.
        result: What came of it.
        numpy: The module.
    """
    while isinstance(function, functools.partial):
        fixed = (*function.args, *function.keywords.values())
        of_program, given = (*[False] * len(fixed), *of_program), (*fixed, *given)
        function = function.func
    name = getattr(function, "__name__", "")
    if name in _OTHERS.split() or str(getattr(function, "__module__", "")).startswith(_MODULES):
        return False
    owner = getattr(function, "__self__", None)
    if result is None:  # it changes what it is a method of, or its first argument
        others, mine = (
            [owner, *given[:1]] if owner is None else [owner],
            [False, *of_program[1:]] if owner is None else [*of_program],
        )
        programs = [value for value, flag in zip(given, mine, strict=False) if flag]
    else:
        programs = [value for value, flag in zip(given, of_program, strict=False) if flag]
        others = [value for value, flag in zip(given, of_program, strict=False) if not flag]
        others += [owner, *(result if isinstance(result, tuple) else (result,))]
    own = [_shape(value, numpy) for value in programs if not hasattr(value, "__next__")]
    if None in own:  # ragged: nobody knows what becomes of its parts
        return True
    beside = {shape for value in others if (shape := _shape(value, numpy)) is not None} - {*own}
    return any(_repeated(shape, other, name) for shape in own if shape is not None for other in beside)


def _repeated(shape: _Shape, other: _Shape, name: str) -> bool:
    """Returns whether to fit a shape into another one is to repeat it."""
    if name in _PRODUCTS and shape:
        return False
    if len(shape) > len(other) or _size(shape) >= _size(other):
        return False
    return all(one in (1, two) for one, two in zip(reversed(shape), reversed(other), strict=False))


def _size(shape: _Shape) -> int:
    return functools.reduce(int.__mul__, shape, 1)


def _shape(value: Any, numpy: Any) -> _Shape | None:
    try:
        shape = getattr(value, "shape", None)  # also of what is no array, such as `numpy.broadcast`
        return tuple(map(int, shape)) if isinstance(shape, tuple) else numpy.shape(value)
    except Exception:
        return None
