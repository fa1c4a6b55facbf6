"""Generated clips on disk: what cannot be computed again, the scene it came from, and the recipe of that scene.

An archive is a compact clip (``c4d_nb.clip.save_compact``; ``load_clip`` reads it) without the truth that
``c4d_nb.kubric.truth.complete_truth`` computes from the rest, and beside it the scene, bit for bit, and the recipe.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from torch import Tensor

from c4d_nb import __version__
from c4d_nb.archive import conforming, group, read_archive, readable
from c4d_nb.clip import Clip, save_compact
from c4d_nb.errors import InputError
from c4d_nb.kubric.ranges import CASES, SPLITS, SUBSETS
from c4d_nb.kubric.scene import Body, Light, Part, Scene, Texture

COMPUTED = ("flow", "backward_flow", "object_coordinates")
"""Fields of the truth that follow from its other fields."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a generated clip looks like. The same recipe gives the same clip."""

    seed: int
    split: str = "movi_e"
    subset: str = "train"
    case: str | None = None
    size: int = 256
    """Height and width, in pixels."""
    frames: int = 24
    samples: int = 4
    """``samples`` x ``samples`` rays colour a pixel."""
    n_tracks: int = 256
    images: str | None = None
    """A folder of pictures for textures."""
    version: str = field(default=__version__, compare=False)
    """The package's, for the record."""

    def __post_init__(self) -> None:
        for name, known in (("split", SPLITS), ("subset", SUBSETS), ("case", (None, *CASES))):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name}: expected one of {', '.join(map(str, known))}, but it is {value!r}")
        for name, least in (("seed", 0), ("size", 8), ("frames", 1), ("samples", 1), ("n_tracks", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected {least} or more, but it is {getattr(self, name)}")


def save_generated(path: str | Path, clip: Clip, scene: Scene, recipe: Recipe) -> Path:
    """Write a clip that was rendered from ``scene``, which was sampled from ``recipe``, atomically."""
    stored = replace(clip, truth=replace(clip.truth, **dict.fromkeys(COMPUTED)))
    return save_compact(stored, path, {**_scene_entries(scene), "recipe": json.dumps(asdict(recipe))})


def load_scene(path: str | Path) -> Scene:
    """The scene of a generated clip, equal to the one it was rendered from in every bit.

    Image textures are paths, so that rendering it again needs the same pictures in the same place. Raises
    ``InputError`` for a clip that was not generated, or a damaged file.
    """
    with readable(path, "generated clip"):
        return conforming(_scene_from_entries(read_archive(path, "clip")))


def load_recipe(path: str | Path) -> Recipe:
    """The recipe of a generated clip; reads nothing else. Raises ``InputError`` as ``load_scene`` does."""
    with readable(path, "generated clip"):
        return Recipe(**json.loads(read_archive(path, "clip", only=("recipe",))["recipe"]))


def _scene_entries(scene: Scene) -> dict[str, Tensor | str]:
    """Tensors by name, bodies' poses stacked; everything else as text, in which Python's floats survive exactly."""
    tensors, plain = _by_kind(scene)
    poses = {"positions": scene.positions, "quaternions": scene.quaternions}
    text = json.dumps(plain | {"bodies": [_by_kind(body)[1] for body in scene.bodies]}, default=asdict)
    return {"scene": text} | {f"scene.{name}": value for name, value in (tensors | poses).items()}


def _by_kind(value: Scene | Body) -> tuple[dict[str, Tensor], dict[str, object]]:
    """(tensors, all else) among the fields of a dataclass."""
    items = {f.name: getattr(value, f.name) for f in fields(value)}
    tensors = {name: item for name, item in items.items() if isinstance(item, Tensor)}
    return tensors, {name: item for name, item in items.items() if name not in tensors}


def _scene_from_entries(entries: Mapping[str, Tensor | str]) -> Scene:
    plain, tensors = json.loads(entries["scene"], object_hook=_tuples), group(entries, "scene")
    poses = zip(plain.pop("bodies"), tensors.pop("positions"), tensors.pop("quaternions"), strict=True)
    bodies = [
        Body(**body | {"parts": tuple(map(_part, body["parts"]))}, positions=positions, quaternions=quaternions)
        for body, positions, quaternions in poses
    ]
    made = {"floor": Texture(**plain["floor"]), "walls": Texture(**plain["walls"]), "light": Light(**plain["light"])}
    return Scene(**plain | made, **tensors, bodies=tuple(bodies))


def _part(plain: dict[str, object]) -> Part:
    return Part(**plain | {"texture": Texture(**plain["texture"])})


def _tuples(plain: dict[str, object]) -> dict[str, object]:
    return {name: _tuple(value) for name, value in plain.items()}


def _tuple(value: object) -> object:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
