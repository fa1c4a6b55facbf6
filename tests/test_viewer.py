"""The viewer's page: complete in itself, true to the reconstruction, and working in a browser."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from c4d_nb.camera import pinhole, pose, transform, unproject
from c4d_nb.clip import Clip, Tracks
from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.viewer import flying_pixels, viewer_payload, write_viewer

T, HEIGHT, WIDTH = 3, 24, 32
N_TRACKS = 5


@pytest.fixture
def result() -> Reconstruction:
    """A tilted plane with a nearer moving square in front; every pixel of the clip has a colour of its own."""
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    depth = (4 - 0.03 * v + 0.01 * u).float().repeat(T, 1, 1)
    mask = torch.zeros(T, HEIGHT, WIDTH, dtype=torch.bool)
    colors = torch.stack([u * 8, v * 10, u * 0], dim=-1).byte().repeat(T, 1, 1, 1)
    for t in range(T):
        mask[t, 8:16, 6 + 4 * t : 16 + 4 * t] = True
        colors[t, ..., 2] = 60 * t
    depth[mask] -= 1.5
    shift = torch.stack([torch.tensor([0.2 * t, 0.0, 0.0]) for t in range(T)])
    tracks_xyz = torch.randn(T, N_TRACKS, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 0, 3])
    tracks_xyz[1, 0] = torch.nan
    tracks_xyz[1:, 4] = torch.nan
    mobility = torch.tensor([1.0, 0, 0, 1, 1]).expand(T, N_TRACKS)
    visible = torch.isfinite(tracks_xyz).all(dim=-1)
    zeros = torch.zeros(T, N_TRACKS)
    return Reconstruction(
        depth=depth,
        confidence=torch.full((T, HEIGHT, WIDTH), 2.0),
        intrinsics=pinhole(torch.full((T,), 30.0), HEIGHT, WIDTH),
        world_from_cam=pose(torch.eye(3).expand(T, 3, 3), shift),
        motion_mask=mask,
        tracks=Tracks(zeros[..., None].expand(T, N_TRACKS, 2), visible, visible.float(), mobility, zeros[0].long()),
        tracks_xyz=tracks_xyz,
        losses={},
        clip=Clip(colors, fps=8.0),
    )


def read_payload(path: Path) -> dict:
    return json.loads(re.search(r'id="payload">(.*?)</script>', path.read_text(encoding="utf-8")).group(1))


def inflate(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)


def decode_points(cloud: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """What the page does: positions in the world, and colours."""
    planes = inflate(cloud["data"]).reshape(10, -1).astype(np.int64)
    integers = np.cumsum(planes[0:6:2] + 256 * planes[1:6:2], axis=1) % 65536
    xyz = torch.tensor(cloud["low"]) + torch.tensor(cloud["step"]) * torch.from_numpy(integers.T)
    return xyz, torch.from_numpy(np.cumsum(planes[6:9], axis=1).T % 256)


def true_points(result: Reconstruction) -> torch.Tensor:
    xyz_cam = unproject(result.depth.double(), result.intrinsics.double()).reshape(T, -1, 3)
    return transform(result.world_from_cam.double(), xyz_cam).reshape(T, HEIGHT, WIDTH, 3)


def assert_same_points(xyz, colors, expected_xyz, expected_colors, step) -> None:
    assert len(xyz) == len(expected_xyz)
    nearest = torch.cdist(xyz.double(), expected_xyz).argmin(dim=1)
    assert len(nearest.unique()) == len(nearest)
    # Half a step of quantisation, and what float32 input leaves.
    assert ((xyz - expected_xyz[nearest]).abs() <= 0.5 * torch.tensor(step) + 1e-6).all()
    assert (colors == expected_colors[nearest]).all()


def test_page_is_self_contained(result, tmp_path):
    page = write_viewer(result, tmp_path / "page.html", title="A </script><b>title").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://|__PAYLOAD__""", page.replace(".src = `data:", ""))
    assert page.count("</script>") == 2
    assert read_payload(tmp_path / "page.html")["title"] == "A </script><b>title"


def test_points_are_the_unprojected_pixels(result, tmp_path):
    cloud = read_payload(write_viewer(result, tmp_path / "page.html"))["cloud"]
    xyz, colors = decode_points(cloud)
    truth, solid = true_points(result), ~flying_pixels(result.depth)
    starts, step, frames = cloud["starts"], cloud["step"], result.clip.frames.long()
    static = solid & ~result.motion_mask
    assert_same_points(xyz[: starts[1]], colors[: starts[1]], truth[static], frames[static], step)
    for t in range(T):
        part, dynamic = slice(starts[t + 1], starts[t + 2]), solid[t] & result.motion_mask[t]
        assert_same_points(xyz[part], colors[part], truth[t][dynamic], frames[t][dynamic], step)
    assert starts[-1] == len(xyz)


def test_budget_keeps_a_third_for_what_moves(result):
    payload = viewer_payload(result, max_points=300, min_confidence=1.0, title="")
    starts = payload["cloud"]["starts"]
    assert starts[-1] <= 300
    assert 95 <= starts[-1] - starts[1] <= 100
    counts = np.diff(starts[1:])
    assert counts.max() - counts.min() <= 2


def test_guesses_and_holes_are_left_out(result):
    result.confidence[:, :, :10] = 1.0
    result.depth[:, :, 30:] = torch.nan
    starts = viewer_payload(result, max_points=10**6, min_confidence=1.0, title="")["cloud"]["starts"]
    shown = ~flying_pixels(result.depth) & ~result.motion_mask
    assert starts[1] == shown[:, :, 10:30].sum()


def test_far_outliers_do_not_cost_resolution(result):
    result.depth[0, 20, 20] = 4e4
    result.depth[1, 3, 3] = 1e-3
    cloud = viewer_payload(result, max_points=10**6, min_confidence=1.0, title="")["cloud"]
    assert max(cloud["step"]) * 65535 < 20


def test_flying_pixels_are_both_sides_of_a_jump():
    depth = torch.tensor([[[1.0, 1.05, 2.0, 2.1, torch.nan]]])
    assert flying_pixels(depth).tolist() == [[[False, True, True, False, False]]]


def test_tracks_cameras_and_view(result):
    payload = viewer_payload(result, max_points=1000, min_confidence=1.0, title="")
    tracks = payload["tracks"]
    assert tracks["count"] == N_TRACKS - 1, "a track seen once has no tail"
    xyz = torch.from_numpy(inflate(tracks["xyz"]).view("<f4").reshape(-1, T, 3).copy())
    torch.testing.assert_close(xyz, result.tracks_xyz[:, [0, 3, 1, 2]].transpose(0, 1), equal_nan=True)
    assert tracks["mobility"] == [1, 1, 0, 0]
    assert np.reshape(payload["world_from_cam"][2], (4, 4))[0, 3] == pytest.approx(0.4)
    assert payload["up"] == pytest.approx([0, -1, 0])
    eye, target = torch.tensor(payload["view"]["eye"]), torch.tensor(payload["view"]["target"])
    assert eye[2] < 0, "behind the first camera"
    assert eye[1] < 0, "above the first camera"
    assert 2 < target[2] < 5


def test_same_input_gives_the_same_bytes(result, tmp_path):
    pages = [write_viewer(result, tmp_path / name, max_points=200).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_one_point_is_enough(result):
    result.depth[:] = torch.nan
    result.depth[1, 4, 4] = 3.0
    cloud = viewer_payload(result, max_points=1, min_confidence=1.0, title="")["cloud"]
    xyz, _ = decode_points(cloud)
    torch.testing.assert_close(xyz.double(), true_points(result)[1, 4, 4][None], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"max_points": 0}, "max_points: expected 1 or more, but it is 0"),
        ({"depth": torch.full((T, HEIGHT, WIDTH), torch.nan)}, {}, "expected finite positive depth"),
        (
            {"clip": Clip(torch.zeros(T, HEIGHT, WIDTH + 1, 3, dtype=torch.uint8), fps=8.0)},
            {},
            "expected depth for every frame and pixel",
        ),
        ({"world_from_cam": torch.full((T, 4, 4), torch.nan)}, {}, "expected finite cameras"),
    ],
)
def test_bad_input_says_so_and_writes_nothing(result, tmp_path, change, options, message):
    with pytest.raises(InputError, match=message):
        write_viewer(replace(result, **change), tmp_path / "page.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_page(result, tmp_path, monkeypatch):
    path = write_viewer(result, tmp_path / "page.html")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_viewer(result, path, title="other")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


PROBE = """
<script>
const look = async () => {
  if (!c4dViewer.ready) return document.body.dataset.error ? 0 : setTimeout(look, 20);
  const v = c4dViewer, body = document.body.dataset, canvas = document.getElementById("view");
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  v.setFrame(1); press("ArrowRight"); body.stepped = v.state.frame; press("ArrowRight"); body.wrapped = v.state.frame;
  press(" "); body.playing = v.state.playing; press(" ");
  v.setFrame(FRAME); v.setFollow(true); v.draw();
  const gl = canvas.getContext("webgl2"), { zoom, left, top } = v.imageArea(), ratio = v.state.ratio;
  body.colors = JSON.stringify(PIXELS.map(([u, v]) => {
    const pixel = new Uint8Array(4), x = ratio * (left + zoom * (u + 0.5)), y = ratio * (top + zoom * (v + 0.5));
    gl.readPixels(Math.floor(x), canvas.height - 1 - Math.floor(y), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    return [...pixel.slice(0, 3)];
  }));
  const yaw = v.orbit.yaw;
  v.setFollow(false);
  v.orbit.yaw += 0.3; v.draw();
  body.glError = gl.getError();
  body.probed = "true";
};
look();
</script>
"""


def dump_dom(path: Path, profile: Path) -> str:
    """The page as headless Chromium leaves it; software WebGL, no network services."""
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next((found for found in map(shutil.which, names) if found), None)
    if binary is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on PATH")
    switches = (
        "headless no-sandbox disable-gpu use-angle=swiftshader enable-unsafe-swiftshader disable-background-networking "
        "disable-component-update disable-sync no-first-run window-size=1000,700 virtual-time-budget=10000 dump-dom"
    )
    command = [binary, *(f"--{switch}" for switch in switches.split()), f"--user-data-dir={profile}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_page_works_in_a_browser(result, tmp_path):
    """It unpacks, obeys its controls and, seen from a camera, draws each point on the pixel that it came from."""
    frame, pixels = 2, [[4, 4], [28, 4], [4, 20], [18, 12], [20, 11]]
    path = write_viewer(
        replace(result, tracks_xyz=torch.full_like(result.tracks_xyz, torch.nan)), tmp_path / "page.html"
    )
    probe = PROBE.replace("FRAME", str(frame)).replace("PIXELS", json.dumps(pixels))
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
    dom = dump_dom(path, tmp_path / "profile")
    attributes = dict(re.findall(r'data-([\w-]+)="([^"]*)"', re.search(r"<body[^>]*>", dom).group(0)))
    assert "error" not in attributes, attributes
    assert attributes["ready"] == "true"
    assert int(attributes["points"]) == read_payload(path)["cloud"]["starts"][-1]
    assert "<title>4D reconstruction</title>" in dom
    assert (attributes["stepped"], attributes["wrapped"], attributes["playing"]) == ("2", "0", "true")
    assert (attributes["probed"], attributes["gl-error"]) == ("true", "0")
    seen = np.array(json.loads(attributes["colors"]))
    expected = np.array([result.clip.frames[frame, v, u].tolist() for u, v in pixels])
    # A neighbouring point may cover the place: colours differ by 8 and 10 a pixel; blue tells the frame of what moves.
    assert np.abs(seen - expected)[:, :2].max() <= 20, (seen, expected)
    assert (seen[3:, 2] == expected[3:, 2]).all(), (seen, expected)
