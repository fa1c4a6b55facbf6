"""Pickles without their danger: arrays of numbers, bytes and plain containers, and nothing else.

A pickle is a program that may call anything. Here every name that it asks for is looked up in a short table, none of
which is the real thing: they check what they are given and build an array of numbers or bytes. Whatever else a file
asks for, it is refused before it is called.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from c4d_nb.errors import InputError

_KINDS = "biufS"
"""Booleans, integers, floats and byte strings, of numpy's kinds of dtype; never objects."""


def read_pickle(path: str | Path) -> object:
    """What a pickle of arrays and plain containers holds.

    Raises ``InputError`` for a file that is damaged, or asks for anything but numpy's arrays; nothing of it is run.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _Unpickler(file).load()
    except OSError as error:
        raise InputError(f"path: cannot read {path} ({error.strerror or error})") from error
    except Exception as error:  # garbage makes the unpickler raise almost any
        raise InputError(f"path: expected a pickle of arrays and plain containers, but {path}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        build = _KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if build is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _Build(build)


class _Build:
    """A function that a pickle can call, but neither inspect nor change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes what it may only call")


class _Dtype:
    """A dtype of ``_KINDS``, of a code such as f4, and later a byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="
        self.real()

    def __setstate__(self, state: tuple) -> None:
        self.order, (subarray, names, fields) = state[1], state[2:5]
        if subarray is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("it has a structured dtype")
        self.real()

    def real(self) -> np.dtype:
        dtype = np.dtype(str(self.order) + str(self.code)) if self.order in ("<", ">", "|", "=") else None
        if dtype is None or dtype.kind not in _KINDS or dtype.hasobject or dtype.shape:
            raise pickle.UnpicklingError(f"it has a dtype {self.order}{self.code}")
        return dtype


class _Array(np.ndarray):
    """An array that takes its content as bytes of the right number only."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, raw = state
        shape = _from_bytes(raw, dtype, shape).shape
        super().__setstate__((1, shape, dtype.real(), bool(is_fortran), bytes(raw)))


def _from_bytes(raw: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or min(shape, default=0) < 0:
        raise pickle.UnpicklingError("it has an array of something else than bytes")
    return np.frombuffer(raw, dtype.real()).reshape(shape, order=order)


def _scalar(dtype: _Dtype, raw: bytes) -> object:
    return _from_bytes(raw, dtype, ()).item()


def _empty(*_: object) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _no_bytes() -> bytes:
    return b""


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes by {encoding}")
    return text.encode("latin1")


def _never(*_: object) -> None:
    raise pickle.UnpicklingError("it makes an array in an unusual way")


_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_bytes,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _never,  # only named, as _reconstruct's argument
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,  # protocol 2 has no empty bytes
}
