"""The farm: what it makes, what it leaves alone, and what it says when something is wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from c4d_nb import load_clip
from c4d_nb.archive import atomic_output
from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, save_compact
from c4d_nb.errors import InputError
from c4d_nb.kubric import farm
from c4d_nb.kubric.farm import STALE_S, GenerationError, clip_name, generate_clips, picture_paths
from c4d_nb.kubric.generate import generate_clip, main, parse_seeds
from c4d_nb.kubric.ranges import CASES, SPLITS, SUBSETS
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at
from c4d_nb.kubric.store import Recipe, load_recipe, load_scene

TINY = ("--size", "32", "--frames", "3", "--samples", "1")


def tiny_scene(seed, *, size, frames, images=(), **options):
    """A ball whose place is the seed's."""
    marble = Texture("marble")
    path = torch.tensor([[0.1 * seed, 0.2 * i, 0.5] for i in range(frames)], dtype=torch.float64)
    still = torch.tensor([[0.0, 0.0, 0.0, 1.0]] * frames, dtype=torch.float64)
    return Scene(
        bodies=(Body((Part("ellipsoid", (0.5, 0.5, 0.5), marble),), path, still, is_dynamic=True),),
        room=((-9.0, -9.0, 0.0), (9.0, 9.0, 9.0)),
        floor=marble if not images else Texture("image", image=images[0]),
        walls=marble,
        world_from_cam=look_at(path.new_tensor([[0, -4, 2]] * frames), path.new_zeros(frames, 3)),
        intrinsics=pinhole(1.1 * size, size, size).double(),
        height=size,
        width=size,
    )


@pytest.fixture
def sampled(monkeypatch):
    """Scenes of one ball instead of the real ones; the seeds that were asked for, in order."""
    seeds = []

    def sample(seed, **options):
        seeds.append(seed)
        return tiny_scene(seed, **options)

    monkeypatch.setattr(farm, "sample_scene", sample)
    return seeds


def tiny(seed, **options):
    return Recipe(seed, **{"size": 16, "frames": 2, "samples": 1, "n_tracks": 4, **options})


def make(seeds, out, **options):
    return generate_clips([tiny(seed, **options) for seed in seeds], out, jobs=1)


def run(*arguments):
    """The command in this process, one clip after the other, of 16x16 px; its exit code."""
    return main([*arguments, "--jobs", "1", "--size", "16", "--frames", "2", "--samples", "1"])


def command(*arguments):
    environment = os.environ | {"TQDM_DISABLE": "1"}
    return [sys.executable, "-m", "c4d_nb.kubric.generate", *map(str, arguments)], environment


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("0:3", [0, 1, 2]), ("0:10:4", [0, 4, 8]), ("5:6", [5]), ("007:9", [7, 8])],
)
def test_seeds(text, seeds):
    assert list(parse_seeds(text)) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "0:", ":5", "0:5:0", "5:5", "6:5", "0:5:1:1", "1.5", "0,5", " 7", "٣"])
def test_bad_seeds(text):
    with pytest.raises(InputError, match=r"^seeds: expected"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"split": "movi_f"}, "movi_f-train-000123.npz"),
        ({"split": "movi_f", "case": "hit"}, "movi_f-train-hit-000123.npz"),
        ({"subset": "validation"}, "movi_e-validation-000123.npz"),
    ],
)
def test_names(options, name):
    assert clip_name(Recipe(123, **options)) == name


@pytest.mark.usefixtures("sampled")
def test_each_seed_has_its_file(tmp_path):
    paths = make(range(2), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["movi_e-train-000000.npz", "movi_e-train-000001.npz"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths
    assert [load_recipe(path) for path in paths] == [tiny(0), tiny(1)]
    assert load_clip(paths[1]).fps == 12
    assert load_scene(paths[1]).positions[0, 0, 0] == 0.1


@pytest.mark.usefixtures("sampled")
def test_a_file_holds_the_clip_of_its_recipe(tmp_path):
    clip = generate_clip(3, size=16, frames=2, samples=1, n_tracks=4)
    (path,) = make([3], tmp_path)
    assert torch.equal(load_clip(path).frames, clip.frames)
    assert torch.equal(load_clip(path).truth.tracks.uv, clip.truth.tracks.uv)


def test_generated_clip_has_its_whole_truth():
    """A real scene, twice the same."""
    clip, again = (generate_clip(5, split="movi_f", size=24, frames=3, samples=1, n_tracks=16) for _ in range(2))
    assert clip.frames.shape == (3, 24, 24, 3)
    assert clip.truth.flow.shape == clip.truth.backward_flow.shape == (2, 24, 24, 2)
    assert clip.truth.tracks.uv.shape == (3, 16, 2)
    assert torch.equal(clip.frames, again.frames)
    assert torch.equal(clip.truth.tracks.uv, again.truth.tracks.uv)


def test_what_is_there_is_not_made_again(tmp_path, sampled):
    make([0, 2], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make(range(4), tmp_path)
    assert sampled == [0, 2, 1, 3]
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_cut_off_file_is_made_again(tmp_path, sampled, share):
    (path,) = make([0], tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    make([0], tmp_path)
    assert sampled == [0, 0]
    assert load_recipe(path) == tiny(0)


def test_partial_files_of_killed_workers(tmp_path, sampled):
    """Only old ones, and of the clips at hand: other jobs may be writing theirs."""
    names = ["movi_e-train-000000-abcd_123", "movi_e-train-000000-fresh_12", "movi_e-train-000009-abcd_123", "notes-x"]
    old, fresh, other, foreign = (tmp_path / f".{name}.npz" for name in names)
    for path in (old, fresh, other, foreign):
        path.touch()
        if path != fresh:
            os.utime(path, (time.time() - 2 * STALE_S,) * 2)
    (made,) = make([0], tmp_path)
    assert set(tmp_path.iterdir()) == {made, fresh, other, foreign}


def test_partial_files_are_named_as_archives_name_them(tmp_path, sampled):
    """The rule above is that of ``atomic_output``."""
    with atomic_output(tmp_path / clip_name(tiny(0, case="hit"))) as partial:
        partial.touch()
        os.utime(partial, (0, 0))
        (made,) = make([0], tmp_path, case="hit")
        assert set(tmp_path.iterdir()) == {made}
        partial.touch()


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("seeds", [[0], [5]])
def test_other_options_are_not_mixed_in(tmp_path, seeds):
    """Neither for a clip that is there, nor for its neighbours."""
    make([0], tmp_path)
    message = r"^out: expected clips with size 24, but in that folder movi_e-train-000000\.npz has size 16$"
    with pytest.raises(InputError, match=message):
        make(seeds, tmp_path, size=24)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("sampled")
def test_subsets_and_cases_stand_side_by_side(tmp_path):
    make([0], tmp_path)
    make([0], tmp_path, subset="validation", size=24)
    make([0], tmp_path, case="hit", size=24)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("sampled")
def test_other_clips_are_not_overwritten(tmp_path):
    clip = Clip(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), 12.0)
    path = save_compact(clip, tmp_path / "movi_e-train-000000.npz")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"^path: .*movi_e-train-000000\.npz is not a complete generated clip"):
        make([0], tmp_path)
    assert path.read_bytes() == before


def fail_at(monkeypatch, seed, error):
    def sample(wanted, **options):
        if wanted == seed:
            raise error
        return tiny_scene(wanted, **options)

    monkeypatch.setattr(farm, "sample_scene", sample)


def test_one_failure_does_not_lose_the_others(tmp_path, monkeypatch):
    fail_at(monkeypatch, 1, ValueError("no such ball"))
    with pytest.raises(GenerationError, match="1 of 3 clips failed") as caught:
        make(range(3), tmp_path)
    assert caught.value.failures == {tmp_path / "movi_e-train-000001.npz": "ValueError: no such ball"}
    assert {path.name for path in tmp_path.iterdir()} == {"movi_e-train-000000.npz", "movi_e-train-000002.npz"}


def test_full_disk_is_a_failure_and_leaves_nothing(tmp_path, monkeypatch, sampled):
    def fill_the_disk(file, **arrays):
        file.write(b"PK half an archive")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", fill_the_disk)
    with pytest.raises(GenerationError, match="No space left"):
        make([0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_threads_of_the_caller_stay(tmp_path, sampled, monkeypatch):
    seen = []
    monkeypatch.setattr(farm, "save_generated", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make([0], tmp_path)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_pictures_of_a_folder(tmp_path, sampled):
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (4, 4), (200, 100, 50)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert [Path(path).name for path in picture_paths(str(tmp_path))] == ["a.JPG", "b.png"]
    (path,) = make([0], tmp_path / "out", images=str(tmp_path))
    assert load_scene(path).floor.image == str(tmp_path / "a.JPG")


@pytest.mark.parametrize("folder", ["nothing", "empty", "file"])
def test_bad_picture_folder(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^images: expected"):
        make([0], tmp_path / "out", images=str(tmp_path / folder))
    assert not (tmp_path / "out").exists()


def test_bad_calls(tmp_path):
    with pytest.raises(InputError, match=r"^jobs: expected"):
        generate_clips([tiny(0)], tmp_path, jobs=0)
    with pytest.raises(InputError, match=r"^recipes: expected one for each"):
        generate_clips([tiny(0), tiny(0, size=24)], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^out: cannot write into"):
        make([0], tmp_path / "file")


def test_command(tmp_path, caplog, sampled):
    caplog.set_level("INFO")
    assert run("--seeds", "0:4:2", "--out", str(tmp_path), "--split", "movi_f", "--case", "hit") == 0
    names = ["movi_f-train-hit-000000.npz", "movi_f-train-hit-000002.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert re.fullmatch(r"2 clips in .*, \d\.\d MB", caplog.messages[-1])


def test_command_with_failures(tmp_path, caplog, monkeypatch):
    fail_at(monkeypatch, 1, RuntimeError("the ball fell out"))
    assert run("--seeds", "0:3", "--out", str(tmp_path)) == 1
    assert caplog.messages == ["1 of 3 clips failed:\n  movi_e-train-000001: RuntimeError: the ball fell out"]


def test_interrupted_command(tmp_path, caplog, monkeypatch):
    fail_at(monkeypatch, 1, KeyboardInterrupt())
    assert run("--seeds", "0:3", "--out", str(tmp_path)) == 130
    assert caplog.messages == ["interrupted: the same command makes the clips that are missing"]
    assert [path.name for path in tmp_path.iterdir()] == ["movi_e-train-000000.npz"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("seeds", ("--seeds", "9:3")),
        ("split", ("--split", "movi_a")),
        ("subset", ("--subset", "test")),
        ("case", ("--case", "miss")),
        ("samples", ("--samples", "0")),
        ("jobs", ("--jobs", "0")),
        ("images", ("--images", "/nowhere")),
        ("scheduler", ("--scheduler", "tcp://localhost:1")),
        ("scheduler", ("--backend", "dask")),
        ("scheduler", ("--backend", "dask", "--scheduler", "post://localhost:1")),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, caplog, name, arguments):
    assert main(["--seeds", "0", "--out", str(tmp_path / "out"), *arguments]) == 2
    (message,) = caplog.messages
    assert message.startswith(f"error: {name}: ")
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_help_names_every_split_subset_and_case(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert {*SPLITS, *SUBSETS, *CASES} <= words


def test_processes_of_this_machine(tmp_path):
    """The real command, real scenes, two workers; the same clips as in this process."""
    arguments, environment = command("--seeds", "0:2", "--out", tmp_path, "--jobs", 2, *TINY)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert len(list(tmp_path.iterdir())) == 2
    clip = generate_clip(1, size=32, frames=3, samples=1)
    assert torch.equal(load_clip(tmp_path / "movi_e-train-000001.npz").frames, clip.frames)


def test_interrupted_processes(tmp_path):
    """Ctrl-C reaches the command and its workers alike."""
    arguments, environment = command("--seeds", "0:99", "--out", tmp_path, "--jobs", 2, *TINY)
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests that run in the background ignore Ctrl-C
    with subprocess.Popen(
        arguments, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("movi_e*")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted: the same command makes the clips that are missing\n")
    assert not list(tmp_path.glob(".*"))
    assert 0 < len([load_recipe(path) for path in tmp_path.iterdir()]) < 99


def test_dask_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:
        scheduler = "--backend", "dask", "--scheduler", cluster.scheduler_address
        assert main(["--seeds", "0:3", "--out", str(tmp_path), *TINY, *scheduler]) == 0
    assert {load_recipe(path).seed for path in tmp_path.iterdir()} == {0, 1, 2}
