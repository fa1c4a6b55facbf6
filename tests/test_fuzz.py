"""Files with wrong bytes: each is read, or refused with one clear sentence; never another error, never code that runs.

Every kind of file that the package reads is damaged in many ways, at places that a generator draws. Containers whose
checksum would catch that at once (``.npz``) are also written anew around senseless values.
"""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from test_dynpt_weights import GEOMETRY, network
from test_export import result_of
from test_movi_writer import clip as movi_clip  # noqa: F401  a fixture

from c4d_nb import load_clip
from c4d_nb.checkpoints import load_dust3r, save_dust3r
from c4d_nb.correspondence.weights import load_dynpt, save_dynpt
from c4d_nb.errors import InputError
from c4d_nb.kubric.movi import read_movi
from c4d_nb.kubric.movi_writer import write_movi
from c4d_nb.kubric.store import load_scene
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.reconstruction import Reconstruction

DATA = Path(__file__).parent.parent / "data"
SHARD = "mini-validation.tfrecord-00000-of-00001"
TRIES, FEWER = 60, {"scene": 12, "video": 15}
"""Of each kind; of those that take longer, not so many."""


class Kind(NamedTuple):
    """One whole file, and what reads it."""

    file: Path
    load: Callable[[Path], object]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, movi_clip) -> dict[str, Kind]:  # noqa: F811
    folder = tmp_path_factory.mktemp("whole")
    (folder / "images").mkdir()
    frames = result_of().clip.frames
    for i, frame in enumerate(frames.numpy()):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), frame)
        cv2.imwrite(str(folder / f"{i}.jpg"), frame)
    video = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for frame in [*frames.numpy()] * 4:
        video.write(frame)
    video.release()
    torch.manual_seed(0)
    return {
        "clip": Kind(movi_clip.save(folder / "clip.npz"), load_clip),
        "scene": Kind(DATA / "movi_e.npz", load_scene),
        "reconstruction": Kind(result_of().save(folder / "result.npz"), Reconstruction.load),
        "video": Kind(folder / "video.mp4", load_clip),
        "image": Kind(folder / "images" / "1.png", lambda path: load_clip(path.parent)),
        "jpeg": Kind(folder / "1.jpg", lambda path: load_clip(path.parent)),
        "dynpt": Kind(save_dynpt(network("cnn", "3d"), folder / "dynpt.safetensors"), load_dynpt),
        "dust3r": Kind(save_dust3r(DUSt3R(GEOMETRY), folder / "d.safetensors", licence="Apache-2.0"), load_dust3r),
        "movi": Kind(write_movi(folder / SHARD, [movi_clip]), lambda path: read_movi(path, index=0)),
    }


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Cut, changed, zeroed, doubled or stripped at a random place; every other time near the beginning, where most
    formats keep what the rest means."""
    content = bytearray(whole)
    place = rng.randrange(min(len(content), 400) if rng.random() < 0.5 else len(content))
    length = rng.choice([1, 2, 8, 100])
    match rng.choice(["cut", "flip", "noise", "zero", "ones", "double", "strip"]):
        case "cut":
            return bytes(content[:place])
        case "flip":
            content[place] ^= 1 << rng.randrange(8)
        case "noise":
            content[place : place + length] = rng.randbytes(length)
        case "zero":
            content[place : place + length] = bytes(length)
        case "ones":
            content[place : place + length] = b"\xff" * length
        case "double":
            content[place:place] = content[place : place + length]
        case "strip":
            del content[place : place + length]
    return bytes(content)


def assert_read_or_refused(load: Callable[[Path], object], path: Path) -> None:
    """Any error but ``InputError`` fails."""
    try:
        load(path)
    except InputError as error:
        message = str(error)
    else:
        return
    assert ": " in message
    assert "\n" not in message


NAMES = ["clip", "scene", "reconstruction", "video", "image", "jpeg", "dynpt", "dust3r", "movi"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes(kinds, tmp_path, name):
    kind, rng = kinds[name], random.Random(name)
    whole, path = kind.file.read_bytes(), tmp_path / kind.file.name
    for _ in range(FEWER.get(name, TRIES)):
        path.write_bytes(damaged(whole, rng))
        assert_read_or_refused(kind.load, path)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_such_file(kinds, tmp_path, name):
    kind, rng = kinds[name], random.Random(name)
    path = tmp_path / kind.file.name
    for other in kinds.values():
        if other.file.suffix != kind.file.suffix:
            path.write_bytes(other.file.read_bytes())
            assert_read_or_refused(kind.load, path)
    for length in (0, 1, 7, 8, 16, 1000):
        path.write_bytes(rng.randbytes(length))
        assert_read_or_refused(kind.load, path)


def senseless(value: np.ndarray, rng: random.Random) -> np.ndarray | None:
    """Of another shape, dtype or size, or full of what no value should be; None leaves the entry out."""
    kind = rng.choice(["gone", "nan", "huge", "negative", "zero", "flat", "more", "fewer", "empty", "text", "dtype"])
    match kind:
        case "gone":
            return None
        case "nan" | "huge" | "negative" | "zero":
            filler = {"nan": np.nan, "huge": 1e30, "negative": -1, "zero": 0}[kind]
            if value.dtype.kind not in "fiu" or (value.dtype.kind != "f" and kind in ("nan", "huge")):
                return np.zeros_like(value)
            with np.errstate(all="ignore"):
                return np.full(value.shape, filler).astype(value.dtype)
        case "flat":
            return value.reshape(-1)
        case "more":
            return value[None]
        case "fewer":
            return value[:-1] if value.ndim else value.reshape(1)
        case "empty":
            return value[:0] if value.ndim else value.reshape(1)[:0]
        case "text":
            return np.array("a text")
        case "dtype":
            return value.astype(rng.choice(["f8", "i2", "u1", "c8", "?"])) if value.dtype.kind in "fiub" else value


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["clip", "scene", "reconstruction"])
def test_senseless_values(kinds, tmp_path, name):
    kind, rng = kinds[name], random.Random(name)
    path = tmp_path / "changed.npz"
    with np.load(kind.file) as file:
        values = {key: file[key] for key in file.files}
    for key in [*values] if name != "scene" else [key for key in values if not key.startswith("truth")]:
        for _ in range(4):
            changed = {**values, key: senseless(values[key], rng)}
            np.savez(path, **{k: v for k, v in changed.items() if v is not None})
            assert_read_or_refused(kind.load, path)


def test_no_archive_is_unpickled(tmp_path):
    """An entry of objects is a pickle, which could run code."""

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("frames", "kind", "truth.depth"):
        np.savez(tmp_path / "trap.npz", **{"kind": np.array("clip"), name: np.array([Trap()], dtype=object)})
        with zipfile.ZipFile(tmp_path / "trap.npz") as file:
            assert f"{name}.npy" in file.namelist()
        with pytest.raises(InputError, match=r"^path: "):
            load_clip(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()
