"""Many generated clips at once, one file each, by the processes of a machine or of a cluster.

joblib hands out the seeds, so that whatever it can hand them to can work: ``backend`` is its name there.

- "loky", processes of this machine: the default.
- "dask", a cluster: ``distributed.Client(address)`` before the call. The folder must be the same one for all workers.
- "ray", a cluster: ``ray.util.joblib.register_ray()`` before the call.
- Job arrays need none of that: each job makes seeds of its own in the same folder.
"""

import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import RLock

import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.ranges import SPLITS
from c4d_nb.kubric.render import render_clip
from c4d_nb.kubric.sampling import sample_scene
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.store import Recipe, load_recipe, save_generated
from c4d_nb.video import IMAGE_SUFFIXES

STALE_S = 600
"""A partial file this old has been left by a worker that was killed: a write takes a few seconds."""


class GenerationError(RuntimeError):
    """Some clips could not be made; ``failures`` says why, by file. All the others were."""

    def __init__(self, failures: dict[Path, str], total: int) -> None:
        lines = (f"  {path.stem}: {reason}" for path, reason in sorted(failures.items()))
        super().__init__("\n".join([f"{len(failures)} of {total} clips failed:", *lines]))
        self.failures = failures


def generate_clips(
    recipes: Sequence[Recipe], out: str | Path, *, jobs: int = -1, backend: str = "loky", device: str = "cpu"
) -> list[Path]:
    """Make each recipe's clip in the folder ``out``, ``jobs`` at a time (-1: one a core), each by one thread, with the
    frames rendered on the ``device``, "cpu" or "cuda".

    Clips that are there already are not made again, so that an interrupted call goes on where it was. Raises
    ``InputError`` before any work if a clip in the folder was made otherwise than is asked, and ``GenerationError``
    after all work if clips failed.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device: expected cpu or cuda, but it is {device!r}")
    if jobs == 0:
        raise InputError("jobs: expected a number of processes, or -1 for one a core, but it is 0")
    for images in {recipe.images for recipe in recipes} - {None}:
        picture_paths(images)
    folder = _writable(out)
    plan = {folder / clip_name(recipe): recipe for recipe in recipes}
    if len(plan) < len(recipes):
        raise InputError("recipes: expected one for each split, subset, case and seed, but some have more")
    _check_same_options(folder, plan)
    todo = {path: recipe for path, recipe in plan.items() if not _is_made(path, recipe)}
    _remove_partial_files(plan, older_than_s=STALE_S)
    try:
        failures = _run(todo, len(plan), jobs, backend, device)
    except BaseException:
        _remove_partial_files(todo, older_than_s=0)  # of workers that were stopped
        raise
    if failures:
        raise GenerationError(failures, len(plan))
    return list(plan)


def make_clip(recipe: Recipe, *, threads: int | None = None, device: str = "cpu") -> tuple[Scene, Clip]:
    """Sample a recipe's scene and render it: on the CPU by ``threads`` side by side, one a core if None."""
    scene = sample_scene(
        recipe.seed,
        split=recipe.split,
        subset=recipe.subset,
        case=recipe.case,
        size=recipe.size,
        frames=recipe.frames,
        images=[] if recipe.images is None else picture_paths(recipe.images),
    )
    options = {"fps": SPLITS[recipe.split].fps, "samples": recipe.samples, "n_tracks": recipe.n_tracks}
    if device == "cpu":
        return scene, render_clip(scene, **options, seed=recipe.seed, threads=threads)
    from c4d_nb.kubric import render_cuda  # needs numba-cuda

    return scene, render_cuda.render_clip(scene, **options, seed=recipe.seed)


def clip_name(recipe: Recipe) -> str:
    """The file's name: ``movi_f-train-000123.npz``, with a forced case ``movi_f-train-hit-000123.npz``."""
    return f"{_series(recipe)}-{recipe.seed:06d}.npz"


def picture_paths(folder: str) -> list[str]:
    """The pictures of a folder, in the order of their names."""
    try:
        files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise InputError(f"images: expected a folder of pictures, but {folder}: {error.strerror}") from error
    if not files:
        raise InputError(f"images: expected pictures in the folder, but {folder} holds none")
    return [str(file) for file in files]


def _run(todo: dict[Path, Recipe], total: int, jobs: int, backend: str, device: str) -> dict[Path, str]:
    """Make all clips of ``todo``; returns why some failed."""
    failures: dict[Path, str] = {}
    with (
        parallel_config(backend=backend, n_jobs=jobs),
        tqdm(desc="generating", initial=total - len(todo), total=total, unit="clip") as bar,
    ):
        tasks = (delayed(_make_file)(path, recipe, device) for path, recipe in todo.items())
        for path, failure in Parallel(return_as="generator_unordered", batch_size=1)(tasks):
            if failure is not None:
                failures[path] = failure
                bar.set_postfix(failed=len(failures), refresh=False)
            bar.update()
    return failures


def _make_file(path: Path, recipe: Recipe, device: str) -> tuple[Path, str | None]:
    """What a worker does. It returns the reason of a failure, for an exception would end all the others' work too."""
    tqdm.set_lock(RLock())  # tqdm's own is a semaphore, which a worker that is killed would leave behind
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scene, clip = make_clip(recipe, threads=1, device=device)
        save_generated(path, clip, scene, recipe)
    except Exception as error:
        return path, f"{type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(threads)
    return path, None


def _writable(out: str | Path) -> Path:
    """The folder, made if need be. Its path is absolute, for workers elsewhere."""
    folder = Path(out).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: cannot write into {folder} ({error.strerror})") from error
    return folder


def _series(recipe: Recipe) -> str:
    return "-".join(filter(None, (recipe.split, recipe.subset, recipe.case)))


def _check_same_options(folder: Path, plan: dict[Path, Recipe]) -> None:
    """One clip of each series in the folder stands for all of them, whoever made them."""
    for series, recipe in {_series(recipe): recipe for recipe in plan.values()}.items():
        other = next(folder.glob(f"{series}-[0-9]*.npz"), None)
        if other is not None and zipfile.is_zipfile(other):
            found = load_recipe(other)
            _check_recipe(other, found, replace(recipe, seed=found.seed))


def _is_made(path: Path, recipe: Recipe) -> bool:
    """Whether the file is there and whole: files appear at once, so that their last bytes speak for all."""
    if not zipfile.is_zipfile(path):
        return False
    _check_recipe(path, load_recipe(path), recipe)
    return True


def _check_recipe(path: Path, found: Recipe, asked: Recipe) -> None:
    if found != asked:
        have, want = asdict(found), asdict(asked)
        names = [name for name in want if want[name] != have[name] and name != "version"]
        wanted, had = (", ".join(f"{name} {values[name]}" for name in names) for values in (want, have))
        raise InputError(f"out: expected clips with {wanted}, but in that folder {path.name} has {had}")


def _remove_partial_files(paths: Iterable[Path], older_than_s: float) -> None:
    """Delete what ``atomic_output`` left beside these paths; other jobs' partial files in the folder stay."""
    stems, folders = {path.stem for path in paths}, {path.parent for path in paths}
    for file in (file for folder in folders for file in folder.glob(".*.npz")):
        ours = file.name[1:].rpartition("-")[0] in stems
        if ours and time.time() - file.stat().st_mtime >= older_than_s:
            file.unlink(missing_ok=True)
