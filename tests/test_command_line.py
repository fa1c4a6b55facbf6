"""``python -m c4d_nb VIDEO --out DIR`` as a user runs it: one sentence for every bad input, all files or none."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from c4d_nb import load_clip
from c4d_nb.camera import pinhole, rotation_angle_deg
from c4d_nb.errors import InputError
from c4d_nb.metrics import motion_iou
from c4d_nb.reconstruction import Reconstruction

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "movi_e.npz"
FILES = {"reconstruction.npz", "viewer.html", "overview.png", "time_slice.png", "camera_path.png"}
SMALL = ("--long-side", "128", "--max-frames", "8")
HEIGHT, WIDTH = 96, 128

# Importing torch takes seconds and most runs end at once: a fresh interpreter imports the command, and every run is a
# process forked from it. Nothing but the import happens before the fork; taking torch down again is left out (1.4 s).
SERVER = """
import json, os, sys, traceback
import c4d_nb.__main__ as command
import c4d_nb.command_line
for line in sys.stdin:
    arguments, stdout, stderr = json.loads(line)
    child = os.fork()
    if child == 0:
        for path, stream in ((stdout, 1), (stderr, 2)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), stream)
        code = 1
        try:
            code = command.main(arguments)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Run:
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs the command with some arguments; each run is a process of its own, without the tests' type checks."""
    streams = [tmp_path_factory.mktemp("streams") / name for name in ("stdout", "stderr")]
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:

        def run(*arguments: str | Path) -> Run:
            for stream in streams:
                stream.unlink(missing_ok=True)
            request = [[str(argument) for argument in arguments], *map(str, streams)]
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()
            return Run(int(server.stdout.readline()), *(stream.read_text() for stream in streams))

        yield run
        server.stdin.close()


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smoothed colour noise over the full range."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def image_folder(path: Path, frames: list[np.ndarray]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        iio.imwrite(path / f"frame_{i}.png", frame)
    return path


def sliding(t: int = 4, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Something that moves: a window that slides over a texture."""
    wide = texture(height, width + 3 * t)
    return [wide[:, 3 * i : 3 * i + width] for i in range(t)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with everything that is fed to the command. Do not write to it."""
    path = tmp_path_factory.mktemp("inputs")
    scene, generator = texture(HEIGHT, WIDTH), np.random.default_rng(1)
    jitter = [scene.astype(int) + generator.integers(-1, 2, scene.shape) for _ in range(5)]
    image_folder(path / "good", sliding())
    image_folder(path / "one", sliding(1))
    image_folder(path / "two", sliding(2))
    image_folder(path / "sizes", [*sliding(3), *sliding(1, 80, 100)])
    image_folder(path / "black", [np.zeros_like(scene)] * 5)
    image_folder(path / "still", [scene] * 5)
    image_folder(path / "still_and_noise", [np.clip(frame, 0, 255).astype(np.uint8) for frame in jitter])
    image_folder(path / "masks_of_two", [np.zeros_like(scene)] * 2)
    image_folder(path / "masks_too_small", [np.zeros_like(scene[:50])] * 4)
    (path / "empty").mkdir()
    (path / "file").write_text("keep me")
    (path / "text.mp4").write_text("This is not a video.\n" * 100)
    whole = SHIPPED.read_bytes()
    (path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (path / "nan.txt").write_text("nan 0 63.5\n0 110 47.5\n0 0 1\n")
    (path / "words.txt").write_text("one two three\n")
    (path / "nothing.txt").touch()
    (path / "object.json").write_text('{"fx": 110}')
    (path / "broken.json").write_text("[[110, 0,")
    (path / "nothing.npy").touch()
    np.save(path / "text.npy", np.full((3, 3), "a"))
    np.save(path / "2x2.npy", np.eye(2))
    with open(path / "several.npy", "wb") as file:
        np.savez(file, K=np.eye(3))
    return path


BAD = {
    # what is bad: (video, further arguments, name of the argument and what the sentence says)
    "missing path": ("nowhere.mp4", (), r"path: expected .*nowhere\.mp4 does not exist"),
    "not a video": ("text.mp4", (), r"path: .*text\.mp4 is not a readable video"),
    "not an archive": ("file", (), r"path: .*file is not a readable video"),
    "empty folder": ("empty", (), r"path: expected images in the folder, but .*empty holds none"),
    "one frame": ("one", (), "clip: expected at least 3 frames, but it has 1"),
    "two frames": ("two", (), "clip: expected at least 3 frames, but it has 2"),
    "two frames chosen": ("good", ("--max-frames", "2"), "clip: expected at least 3 frames, but it has 2"),
    "sizes differ": ("sizes", (), "path: expected frames of one size, but in .* frame 3 is 100x80 after 128x96"),
    "all black": ("black", (), "clip: expected textured frames, but"),
    "nothing moves": ("still", (), "clip: expected a camera or a scene that moves, but"),
    "nothing but noise": ("still_and_noise", (), "clip: expected a camera or a scene that moves, but"),
    "archive cut in half": ("half.npz", (), r"path: .*half\.npz is damaged or not a clip archive"),
    "stride": ("good", ("--stride", "0"), "stride: expected 1 or more, but it is 0"),
    "max frames": ("good", ("--max-frames", "0"), "max_frames: expected 1 or more, but it is 0"),
    "long side": ("good", ("--long-side", "3"), "long_side: expected at least 16 px, but it is 3"),
    "negative start": ("good", ("--start", "-1"), "start: expected 0 or more, but it is -1"),
    "start beyond the end": (
        "good",
        ("--start", "4"),
        "start: expected one of the frames .*, but it ends before frame 4",
    ),
    "start beyond an archive": (SHIPPED, ("--start", "999"), "start: expected less than .*, but it is 999"),
    "too few masks": ("good", ("--true-masks", "masks_of_two"), r"true_masks: expected .*\(4, 96, 128\), .*\(2, 96"),
    "masks too small": ("good", ("--true-masks", "masks_too_small"), r"true_masks: expected .*, but .*\(4, 50, 128\)"),
    "missing own masks": ("good", ("--masks", "nowhere"), r"masks: .*nowhere does not exist"),
    "own masks too small": ("good", ("--masks", "masks_too_small"), r"masks: expected .*, but .*\(4, 50, 128\)"),
    "missing tracker": ("good", ("--tracker", "nowhere"), r"tracker: .*nowhere"),
    "missing masks": ("good", ("--true-masks", "nowhere"), r"true_masks: .*nowhere does not exist"),
} | {
    f"intrinsics {value}": ("good", ("--intrinsics", value), message)
    for value, message in (
        ("nan,1,1,1", "intrinsics: expected finite numbers, but there is NaN"),
        ("nan.txt", "intrinsics: expected finite numbers, but there is NaN"),
        ("0,110,63.5,47.5", "intrinsics: expected positive focal lengths, but"),
        ("110,110,63.5", r"intrinsics: expected fx,fy,cx,cy .*, but 110,110,63\.5"),
        ("abc", "intrinsics: expected fx,fy,cx,cy .*, but abc"),
        ("words.txt", r"intrinsics: expected .*, but .*words\.txt"),
        ("nowhere.txt", r"intrinsics: expected .*, but .*nowhere\.txt"),
        ("nothing.txt", r"intrinsics: expected .*, but .*nothing\.txt"),
        ("nothing.npy", r"intrinsics: expected .*, but .*nothing\.npy"),
        ("object.json", r"intrinsics: expected .*, but .*object\.json"),
        ("broken.json", r"intrinsics: expected .*, but .*broken\.json"),
        ("text.npy", r"intrinsics: expected .*, but .*text\.npy"),
        ("several.npy", r"intrinsics: expected .*, but .*several\.npy"),
        ("2x2.npy", r"intrinsics: expected a 3x3 matrix, but .*2x2\.npy has shape \(2, 2\)"),
    )
}


def with_paths(inputs: Path, arguments: tuple[str | Path, ...]) -> list[str]:
    """What names a file or folder of the inputs, or one that is missing there, becomes a path."""
    return [str(inputs / a) if (inputs / a).exists() or "nowhere" in str(a) else str(a) for a in arguments]


def assert_one_sentence(run: Run, message: str) -> None:
    """One line on stderr that begins with "error:" and says ``message``; the first stage's name may stand before it."""
    assert "Traceback" not in run.stderr, run.stderr
    assert run.code == 2, run.stderr
    *before, error = run.stderr.splitlines()
    assert re.search(f"^error: {message}", error), error
    assert before in ([], ["correspondences: flow between pairs of frames, tracks through all of them"])
    assert run.stdout == ""


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(command, inputs, tmp_path, case):
    video, more, message = BAD[case]
    out = tmp_path / "new" / "out"
    run = command(*with_paths(inputs, (video, *more)), "--out", out)
    assert_one_sentence(run, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["missing path", "two frames", "nothing moves"])
def test_bad_input_leaves_a_folder_as_it_was(command, inputs, tmp_path, case):
    video, more, message = BAD[case]
    (tmp_path / "mine").mkdir()
    for name in ("notes.txt", "reconstruction.npz", "mine/more.txt"):
        (tmp_path / name).write_text(name)
    before = content(tmp_path)
    assert_one_sentence(command(*with_paths(inputs, (video, *more)), "--out", tmp_path), message)
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("below", [".", "below", "far/below"])
def test_output_that_is_a_file(command, inputs, tmp_path, below):
    (tmp_path / "file").write_text("keep me")
    run = command(inputs / "good", "--out", tmp_path / "file" / below)
    assert_one_sentence(run, r"out: cannot write into .*file")
    assert content(tmp_path) == {"file": b"keep me"}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (8, 128)])
def test_frames_too_small(command, tmp_path, height, width):
    """OpenCV's optical flow raises its own error for tiny images, and crashes on wide flat ones."""
    video = image_folder(tmp_path / "video", sliding(5, height, width))
    run = command(video, "--out", tmp_path / "out")
    assert_one_sentence(run, f"(clip|path|long_side): expected .*{width}x{height}|clip: expected textured frames")
    assert not (tmp_path / "out").exists()


def test_missing_output_is_a_usage_error(command):
    run = command("video.mp4")
    assert run.code == 2
    assert "--out" in run.stderr.splitlines()[-1]


def test_as_a_module(tmp_path):
    """The real thing once: exit code and sentence reach the shell."""
    line = [sys.executable, "-m", "c4d_nb", "nowhere.mp4", "--out", "out"]
    run = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert_one_sentence(Run(run.returncode, run.stdout, run.stderr), "path: expected .*nowhere.mp4 does not exist")
    assert not list(tmp_path.iterdir())


def hear_interrupts() -> None:
    """In the child, before it starts: a shell in the background would have it ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("existing", [False, True], ids=["new folder", "folder with files"])
def test_interrupt(tmp_path, existing):
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        (out / "notes.txt").write_text("keep me")
    line = [sys.executable, "-m", "c4d_nb", SHIPPED, "--out", out, "--long-side", "192"]
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, preexec_fn=hear_interrupts, **streams) as process:
        stderr = ""
        for text in process.stderr:
            stderr += text
            if "motion masks: what" in text:
                process.send_signal(signal.SIGINT)
                break
        stdout, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr + rest
    assert (stderr + rest).splitlines()[-1] == "interrupted: nothing was written"
    assert stdout == ""
    assert content(tmp_path) == ({"out/notes.txt": b"keep me"} if existing else {})
    assert list(tmp_path.rglob("*")) == ([out, out / "notes.txt"] if existing else [])


@pytest.fixture(scope="module")
def good_run(command, tmp_path_factory) -> tuple[Run, Path]:
    """Do not write to the folder."""
    out = tmp_path_factory.mktemp("good") / "deep" / "out"
    return command(SHIPPED, "--out", out, *SMALL), out


def test_good_run_writes_its_files_and_nothing_else(good_run):
    run, out = good_run
    assert run.code == 0, run.stderr
    assert {path.name for path in out.iterdir()} == FILES
    assert all(path.stat().st_size > 5_000 for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    for name in FILES:
        assert name in run.stdout
    for name in FILES - {"reconstruction.npz", "viewer.html"}:
        assert np.ptp(iio.imread(out / name)) > 100


def test_good_run_names_its_stages_on_stderr_only(good_run):
    run, _ = good_run
    stages = [line.split(":")[0] for line in run.stderr.splitlines() if ":" in line]
    first = ["correspondences", "motion masks", "pair pointmaps", "network"]
    assert stages == [*first, "stage 1", "stage 2", "full resolution"]
    assert re.search(r"^pointmaps of \d+ pairs of \d+x\d+ px take \d+ MB$", run.stderr, re.MULTILINE)


def test_good_run_prints_scores(good_run):
    run, _ = good_run
    *table, _ = run.stdout.splitlines()
    scores = {line[:32].strip(): float(line[32:]) for line in table}
    assert {"ATE (% of path)", "RPE rotation (deg)", "depth AbsRel", "motion mask IoU"} <= scores.keys()
    assert np.isfinite(list(scores.values())).all()


def test_good_run_can_be_loaded(good_run):
    result = Reconstruction.load(good_run[1] / "reconstruction.npz")
    clip = load_clip(SHIPPED, long_side=128, max_frames=8)
    assert torch.equal(result.clip.frames, clip.frames)
    assert result.depth.shape == (8, *clip.size)
    assert torch.isfinite(result.depth).all()
    assert max(clip.size) == 128


def test_second_run_with_known_intrinsics_and_true_masks(command, good_run, tmp_path):
    """Into a folder with results and a file of the user's; intrinsics and masks are of the original pixels. Another
    tracker."""
    out = tmp_path / "out"
    shutil.copytree(good_run[1], out)
    (out / "notes.txt").write_text("keep me")
    original = load_clip(SHIPPED, max_frames=8)
    height, width = original.size
    K = original.truth.intrinsics[0].clone()
    K[1, 1] *= 1.01
    np.savetxt(tmp_path / "K.txt", K.numpy())
    true = original.truth.motion_mask
    masks = image_folder(tmp_path / "masks", [255 * mask.numpy().astype(np.uint8) for mask in true])
    known = "--intrinsics", tmp_path / "K.txt", "--true-masks", masks, "--masks", masks
    run = command(SHIPPED, "--out", out, *SMALL, *known, "--tracker", "dynpt_cnn")
    assert run.code == 0, run.stderr
    assert {path.name for path in out.iterdir()} == FILES | {"notes.txt"}
    assert (out / "notes.txt").read_text() == "keep me"
    for name in FILES:
        assert (out / name).read_bytes() != (good_run[1] / name).read_bytes()
    result = Reconstruction.load(out / "reconstruction.npz")
    v, u = result.clip.size
    scale = torch.tensor([[u / width], [v / height]])
    mapped = torch.eye(3)
    mapped[:2] = scale * K[:2]
    mapped[:2, 2:] = scale * (K[:2, 2:] + 0.5) - 0.5
    assert torch.equal(result.intrinsics, result.clip.intrinsics)
    torch.testing.assert_close(result.intrinsics, mapped.expand(8, 3, 3), rtol=1e-6, atol=1e-5)
    iou = motion_iou(result.clip.original.mask_to_original(result.motion_mask), true)
    assert iou > 0.9  # they are the true ones, but for the resizing
    assert re.search(rf"motion mask IoU \(original px\) +{iou:.4f}\n", run.stdout)


def test_intrinsics_in_every_notation(tmp_path):
    """The same K inline and in three kinds of file."""
    from c4d_nb.command_line import parse_intrinsics

    K = np.array([[110.5, 0, 63.25], [0, 111.5, 47.75], [0, 0, 1]])
    np.save(tmp_path / "K.npy", K)
    np.savetxt(tmp_path / "K.txt", K)
    (tmp_path / "K.json").write_text(json.dumps(K.tolist()))
    for text in ("110.5,111.5,63.25,47.75", *(str(tmp_path / f"K.{suffix}") for suffix in ("npy", "txt", "json"))):
        assert torch.equal(parse_intrinsics(text), torch.from_numpy(K).float())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.9, 0.999])
def test_result_cut_off(good_run, tmp_path, share):
    whole = (good_run[1] / "reconstruction.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"^path: .*cut\.npz is damaged or not a reconstruction archive"):
        Reconstruction.load(cut)


def test_clip_is_not_a_result_nor_the_reverse(command, good_run, tmp_path):
    with pytest.raises(InputError, match=r"^path: expected a reconstruction archive, but .* holds: clip"):
        Reconstruction.load(SHIPPED)
    run = command(good_run[1] / "reconstruction.npz", "--out", tmp_path / "out")
    assert_one_sentence(run, "path: expected a clip archive, but .* holds: reconstruction")


def test_missing_result(tmp_path):
    with pytest.raises(InputError, match=r"^path: expected a reconstruction archive, but .* does not exist"):
        Reconstruction.load(tmp_path / "nowhere.npz")


def moving_square(side: int = 40, step: int = 6, t: int = 10) -> tuple[list[np.ndarray], torch.Tensor]:
    """A textured square before a still scene, and its mask."""
    top = (HEIGHT - side) // 2
    frames = [texture(HEIGHT, WIDTH) for _ in range(t)]
    mask = torch.zeros(t, HEIGHT, WIDTH, dtype=torch.bool)
    for i, frame in enumerate(frames):
        inside = slice(top, top + side), slice(8 + step * i, 8 + step * i + side)
        frame[inside] = texture(side, side, seed=5)
        mask[i][inside] = True
    return frames, mask


def spread(result: Reconstruction) -> float:
    """The longest distance of a camera from their mean, over the median depth."""
    centre = result.world_from_cam[:, :3, 3]
    return float((centre - centre.mean(0)).norm(dim=-1).max() / result.depth.median())


def test_still_camera_and_moving_object(command, tmp_path):
    frames, mask = moving_square()
    run = command(image_folder(tmp_path / "video", frames), "--out", tmp_path / "out")
    assert run.code == 0, run.stderr
    result = Reconstruction.load(tmp_path / "out" / "reconstruction.npz")
    turned = rotation_angle_deg(result.world_from_cam[0, :3, :3].T @ result.world_from_cam[:, :3, :3])
    assert spread(result) < 0.01
    assert turned.max() < 0.1
    # Flow bleeds over the square's border, and in noise there is no outline for superpixels to find: 0.47 was measured,
    # 0.65 without their consensus.
    assert motion_iou(result.motion_mask, mask) > 0.4
    assert (result.motion_mask & mask).sum() > 0.8 * mask.sum()
    assert result.confidence.max() < 1.1
    assert torch.isfinite(result.depth).all()


def test_pure_rotation(command, tmp_path):
    """A camera that only turns, 0.6 degrees a frame, before a wall of texture infinitely far away."""
    K = pinhole(110.0, HEIGHT, WIDTH).double().numpy()
    a = np.arange(10)
    rotvecs = np.stack([0.003 * np.sin(a), 0.01 * (a - 4.5), 0.003 * (a - 4.5)], axis=-1)
    rotations = [cv2.Rodrigues(rotvec)[0] for rotvec in rotvecs]  # world from camera
    sky, sky_K = texture(300, 400, seed=7), pinhole(110.0, 300, 400).double().numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    frames = [cv2.warpPerspective(sky, sky_K @ R @ np.linalg.inv(K), (WIDTH, HEIGHT), flags=flags) for R in rotations]
    known = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"
    run = command(image_folder(tmp_path / "video", frames), "--out", tmp_path / "out", "--intrinsics", known)
    assert run.code == 0, run.stderr
    result = Reconstruction.load(tmp_path / "out" / "reconstruction.npz")
    true = torch.from_numpy(np.stack(rotations))
    found = result.world_from_cam[:, :3, :3].double()
    error = rotation_angle_deg((true[0].T @ true).mT @ (found[0].T @ found))
    assert error.max() < 0.5
    assert spread(result) < 0.03
    assert result.confidence.max() < 1.1
    assert not result.motion_mask.float().mean() > 0.05
