"""Several formats at once, by name: what the command's ``--export`` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from c4d_nb.errors import InputError
from c4d_nb.export.check import optional_package
from c4d_nb.export.colmap import refuse_other_model, to_colmap
from c4d_nb.export.glb import to_glb
from c4d_nb.export.images import Frames
from c4d_nb.export.nerfstudio import to_nerfstudio
from c4d_nb.export.npz import to_npz
from c4d_nb.export.ply import to_ply, to_ply_sequence
from c4d_nb.export.tum import to_tum
from c4d_nb.reconstruction import Reconstruction


@dataclass(frozen=True)
class Format:
    write: Callable[..., Path]
    name: str
    """Of the file or folder, within the folder of all exports."""
    package: str | None = None
    has_images: bool = False
    has_points: bool = True


FORMATS = {
    "colmap": Format(to_colmap, "colmap", package="pycolmap", has_images=True),
    "nerfstudio": Format(to_nerfstudio, "nerfstudio", has_images=True),
    "ply": Format(to_ply, "scene.ply"),
    "ply_sequence": Format(to_ply_sequence, "ply_sequence"),
    "glb": Format(to_glb, "scene.glb", package="trimesh"),
    "tum": Format(to_tum, "trajectory.txt", has_points=False),
    "npz": Format(to_npz, "arrays.npz", has_points=False),
}


def check_formats(names: Sequence[str], folder: Path) -> None:
    """Raises ``InputError`` for what could not be exported there, before there is anything to export."""
    for name in names:
        if name not in FORMATS:
            raise InputError(f"export: expected some of {', '.join(FORMATS)}, but it is {name!r}")
        if FORMATS[name].package is not None:
            optional_package(FORMATS[name].package, name)
    if "colmap" in names:
        refuse_other_model(folder / FORMATS["colmap"].name)


def export(
    result: Reconstruction,
    folder: Path,
    names: Sequence[str],
    *,
    originals: Callable[[], Frames | None] = lambda: None,
    min_confidence: float | None = None,
) -> list[Path]:
    """Write each of the formats into ``folder``; ``originals`` gives the video's own frames anew at each call."""
    check_formats(names, folder)
    written = []
    for name in dict.fromkeys(names):
        form = FORMATS[name]
        options = {"min_confidence": min_confidence} if form.has_points else {}
        if form.has_images:
            options["originals"] = originals()
        written.append(form.write(result, folder / form.name, **options))
    return written
