"""Whatever a file of a data set holds, its reader gives a clip or one sentence that names the file."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_datasets import davis, save, save_bytes, scannet, sintel, tum  # noqa: F401

from c4d_nb.datasets import read_davis, read_scannet, read_sintel, read_trajectory, read_tum
from c4d_nb.errors import InputError

FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
READERS = {
    "davis": lambda root: read_davis(root, "bear"),
    "sintel": lambda root: read_sintel(root, "alley_9"),
    "tum": lambda root: read_tum(root, stride=1),
    "scannet": lambda root: read_scannet(root, stride=3),
}


def files_read(name: str, root: Path) -> list[Path]:
    """One of each kind."""
    patterns = {
        "davis": ["JPEGImages/480p/bear/00001.jpg", "Annotations/480p/bear/00001.png"],
        "sintel": ["training/*/alley_9/frame_0002.*"],
        "tum": ["*.txt", "rgb/*7.png", "depth/*1.png"],
        "scannet": ["color/3.jpg", "depth/3.png", "pose/6.txt", "intrinsic/*.txt"],
    }
    found = [file for pattern in patterns[name] for file in sorted(root.glob(pattern)) if "clean" not in file.parts]
    assert len(found) >= 2
    return found


@pytest.mark.parametrize("name", READERS)
@FEW
@given(data=st.data())
def test_files_cut_off_or_changed(request, name, data):
    root = request.getfixturevalue(name)
    file = data.draw(st.sampled_from(files_read(name, root)))
    whole = file.read_bytes()
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, 200), max_size=3)):
        if place < len(broken):
            broken[place] = data.draw(st.integers(0, 255))
    file.write_bytes(broken)
    try:
        with suppress(InputError):
            READERS[name](root)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", READERS)
def test_files_that_are_empty_or_folders_or_forbidden(request, name, monkeypatch):
    """The message names the file, wherever the fault is."""
    root = request.getfixturevalue(name)
    for file in files_read(name, root):
        whole = file.read_bytes()
        file.write_bytes(b"")
        with pytest.raises(InputError, match=file.name):
            READERS[name](root)
        file.unlink()
        file.mkdir()
        with pytest.raises(InputError, match=file.name):
            READERS[name](root)
        file.rmdir()
        file.write_bytes(whole)
        with monkeypatch.context() as patched:
            forbid(patched, file)
            with pytest.raises(InputError, match=file.name):
                READERS[name](root)
    READERS[name](root)


def forbid(patched: pytest.MonkeyPatch, file: Path) -> None:
    """As if it had no permission to be read; a superuser, who may run this, can read all."""
    import builtins
    import io

    def guarded(function):
        def opened(path, *arguments, **options):
            if str(path) == str(file):
                raise PermissionError(13, "Permission denied", str(file))
            return function(path, *arguments, **options)

        return opened

    patched.setattr(builtins, "open", guarded(builtins.open))
    patched.setattr(io, "open", guarded(io.open))


@FEW
@given(text=st.text(alphabet="0123456789. -e#,nai\n\t", max_size=120))
def test_fuzzed_trajectories(tmp_path, text):
    file = tmp_path / "path.txt"
    file.write_text(text)
    with suppress(InputError):
        assert read_trajectory(file).world_from_cam.isfinite().all()


def test_images_of_other_kinds(davis, scannet):  # noqa: F811
    import numpy as np

    save(davis / "JPEGImages/480p/bear/00001.jpg", np.zeros((24, 32), np.uint8))
    assert read_davis(davis, "bear").frames.shape[3] == 3
    save(scannet / "depth/3.png", np.zeros((24, 32), np.uint8))
    with pytest.raises(InputError, match=r"expected a 16-bit depth image, but .*3\.png has Pillow's mode L"):
        read_scannet(scannet)
    save_bytes(scannet / "depth/3.png", b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(InputError, match=r"3\.png"):
        read_scannet(scannet)
