"""One-file archives of named arrays: written atomically, checked when read.

An archive is a plain ``.npz`` (a zip of ``.npy`` arrays, readable by ``numpy.load``) with one extra entry, ``kind``,
that says what it holds. Nested values use dotted names: ``truth.depth``, ``tracks.uv``.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TypeVar, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

from c4d_nb.errors import InputError

Value = TypeVar("Value")


def write_archive(path: str | Path, kind: str, values: Mapping[str, Tensor | float | int | str | None]) -> Path:
    """Write named tensors and scalars to one compressed file; None is left out.

    The file appears under its name only when it is complete: an interrupted write leaves nothing behind.
    """
    path = Path(path)
    arrays = {name: _to_numpy(value) for name, value in values.items() if value is not None}
    with atomic_output(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, kind=np.array(kind), **arrays)
    return path


def read_archive(path: str | Path, kind: str, *, only: Collection[str] | None = None) -> dict[str, Tensor | str]:
    """Read what ``write_archive`` wrote; raises ``InputError`` for a damaged file or one of another kind.

    ``only`` names the entries to read, of those that are there: the others cost no time.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"path: expected a {kind} archive, but {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = file.files if only is None else [name for name in file.files if name in {"kind", *only}]
            arrays = {name: file[name] for name in wanted}
    except Exception as error:  # zip, zlib, numpy and its parser of headers each have errors of their own
        raise InputError(f"path: {path} is damaged or not a {kind} archive ({error})") from error
    found = str(arrays.pop("kind", np.array("unknown")))
    if found != kind:
        raise InputError(f"path: expected a {kind} archive, but {path} holds: {found}")
    return {name: str(a) if a.dtype.kind == "U" else torch.from_numpy(a) for name, a in arrays.items()}


def archives_in(folder: str | Path) -> list[Path]:
    """Those of a folder, in the order of their names; what is still being written is left out."""
    return sorted(Path(folder).glob("[!.]*.npz"))


@contextmanager
def readable(path: str | Path, kind: str) -> Iterator[None]:
    """Entries that are missing, unknown or senseless while a value is built become an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what is built of senseless entries may fail in any way
        raise InputError(f"path: {path} is not a complete {kind} archive ({error})") from error


def conforming(value: Value) -> Value:
    """The same dataclass, if all tensors in it have the dtypes and shapes that their fields say, axes of one name being
    of one length, and so in dataclasses within; ``ValueError`` if not."""
    hints = get_type_hints(type(value))
    with jaxtyped("context"):
        for name in (field.name for field in fields(value)):
            item = getattr(value, name)
            if _is_of_tensors(hints[name]) and not isinstance(item, hints[name]):
                found = f"{tuple(item.shape)} of {item.dtype}" if isinstance(item, Tensor) else repr(item)
                raise ValueError(f"{name} is {found}")
    for item in (getattr(value, field.name) for field in fields(value)):
        for part in item if isinstance(item, tuple) else (item,):
            if is_dataclass(part):
                conforming(part)
    return value


def _is_of_tensors(hint: object) -> bool:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return any(isinstance(kind, type) and issubclass(kind, AbstractArray) for kind in kinds)


def group(values: Mapping[str, Tensor | str], name: str) -> dict[str, Tensor | str]:
    """The entries below ``name.``, without that prefix and without deeper levels."""
    tails = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
    return {tail: value for tail, value in tails.items() if "." not in tail}


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that becomes ``path`` on success and vanishes on error."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"path: cannot write {path} ({error.strerror})") from error
    partial = Path(name)
    try:
        os.close(handle)
        yield partial
        partial.chmod(0o666 & ~_umask())  # only now: some writers put a file of their own there
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, argument: str = "out", replaces: str | None = None) -> Iterator[Path]:
    """Yields an empty temporary folder whose files, also those in folders of it, move into the same places of the
    folder ``path`` on success and vanish on error. Other files that are there stay, but those beside new ones whose
    names match the pattern ``replaces``: the last frames of a longer video.

    That ``path`` can be written is checked at once, before any work; a folder made for it goes away again on error.
    ``InputError`` calls it by the name of the ``argument``.
    """
    path = Path(path)
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=path))
    except OSError as error:
        raise InputError(f"{argument}: cannot write into {path} ({error.strerror})") from error
    try:
        yield partial
        targets = {file: path / file.relative_to(partial) for file in sorted(partial.rglob("*")) if file.is_file()}
        for target in targets.values():
            _check_place(target, path, argument)
        for file, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        for folder in {target.parent for target in targets.values()} if replaces else ():
            for file in set(folder.glob(replaces)).difference(targets.values()):
                file.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not empty: it holds the results, or something else that is not ours
                folder.rmdir()


def _check_place(target: Path, path: Path, argument: str) -> None:
    if target.is_dir():
        raise InputError(f"{argument}: expected to write the file {target}, but a folder of that name is in its place")
    for folder in target.relative_to(path).parents:
        if (path / folder).is_file():
            raise InputError(
                f"{argument}: expected to write into a folder {path / folder}, but a file of that name is in its place"
            )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _to_numpy(value: Tensor | float | int | str) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
