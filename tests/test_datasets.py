"""Each reader on a small fixture in its data set's own layout, written here byte by byte, and on real data where it is.

The scene is the same everywhere: a wall seen by a camera that moves sideways, so truth is known in closed form."""

import json
import pickle
import shutil
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy.spatial.transform import Rotation

from c4d_nb.camera import invert, project, transform, unproject
from c4d_nb.datasets import (
    davis_sequences,
    read_cam,
    read_davis,
    read_dpt,
    read_flo,
    read_scannet,
    read_sintel,
    read_tap_vid,
    read_trajectory,
    read_tum,
    tap_vid_clips,
)
from c4d_nb.errors import InputError

T, HEIGHT, WIDTH = 4, 24, 32
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 759)
    image.save(path)
    return path


def save_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def save_bytes(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# DAVIS


@pytest.fixture
def davis(tmp_path) -> Path:
    """``bear`` as in 2016, ``pigs`` as in 2017, with two objects and a void pixel."""
    root = tmp_path / "DAVIS"
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:10, 5:12] = 255
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    objects[2:6, 2:8], objects[10:14, 20:30], objects[0, 0] = 1, 2, 255
    for i in range(T):
        for name in ("bear", "pigs"):
            save(root / "JPEGImages/480p" / name / f"{i:05}.jpg", picture(i))
        save(root / "Annotations/480p/bear" / f"{i:05}.png", mask)
        save(root / "Annotations/480p/pigs" / f"{i:05}.png", objects, palette=True)
    lines = [f"/JPEGImages/480p/bear/{i:05}.jpg /Annotations/480p/bear/{i:05}.png" for i in range(T)]
    save_text(root / "ImageSets/480p/val.txt", "\n".join(lines) + "\n")
    save_text(root / "ImageSets/2017/val.txt", "pigs\n")
    return root


def test_davis_2016(davis):
    clip = read_davis(davis, "bear")
    assert clip.frames.shape == (T, HEIGHT, WIDTH, 3)
    assert clip.fps == 24
    assert clip.truth.segmentation[0, 5, 6] == 1
    assert clip.truth.motion_mask.sum() == T * 6 * 7
    assert clip.truth.motion_mask[2, 4, 5]
    assert not clip.truth.motion_mask[2, 3, 5]


def test_davis_2017_has_objects_and_void(davis):
    clip = read_davis(davis, "pigs", start=1, stride=2)
    assert len(clip) == 2
    assert clip.fps == 12
    assert clip.truth.segmentation.unique().tolist() == [0, 1, 2]
    assert clip.truth.segmentation[0, 12, 25] == 2
    assert clip.truth.segmentation[0, 0, 0] == 0
    small = read_davis(davis, "pigs", long_side=16)
    assert small.truth.segmentation.shape == (T, HEIGHT // 2, WIDTH // 2)
    assert small.original.original_width == WIDTH


def test_davis_lists(davis):
    assert davis_sequences(davis) == ["bear"]
    assert davis_sequences(davis, year=2017) == ["pigs"]
    with pytest.raises(InputError, match="year: expected 2016 or 2017"):
        davis_sequences(davis, year=2018)
    with pytest.raises(InputError, match=r"the split train of DAVIS 2017.*davischallenge\.org/davis2017"):
        davis_sequences(davis, year=2017, split="train")


def test_davis_without_what_it_promises(davis):
    masks = davis / "Annotations/480p/bear"
    (masks / "00002.png").unlink()
    with pytest.raises(InputError, match=r"expected a mask of every frame, but .*bear has none of 00002"):
        read_davis(davis, "bear")
    assert len(read_davis(davis, "bear", max_frames=2)) == 2
    save(masks / "00002.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(InputError, match=r"expected 32x24 px, as of the frames, but .*00002\.png is 7x5"):
        read_davis(davis, "bear")
    save_bytes(masks / "00002.png", (masks / "00001.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"^path: expected a mask, but .*00002\.png"):
        read_davis(davis, "bear")


# MPI-Sintel

FOCAL, DEPTH, STEP = 40.0, 5.0, 0.25
SHIFT = FOCAL * STEP / DEPTH  # px a frame, to the left
TAG = struct.pack("<f", 202021.25)


def sintel_camera(i: int) -> bytes:
    """cam_from_world of a camera at x = i STEP."""
    K = [FOCAL, 0, (WIDTH - 1) / 2, 0, FOCAL, (HEIGHT - 1) / 2, 0, 0, 1]
    return TAG + struct.pack("<21d", *K, 1, 0, 0, -i * STEP, 0, 1, 0, 0, 0, 0, 1, 0)


def flo(flow: np.ndarray) -> bytes:
    height, width = flow.shape[:2]
    return TAG + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes()


def box(i: int) -> tuple[slice, slice]:
    """Something that rises by 2 px a frame, where the wall goes left."""
    return slice(14 - 2 * i, 20 - 2 * i), slice(8, 14)


@pytest.fixture
def sintel(tmp_path) -> Path:
    for i in range(T):
        stem = f"frame_{i + 1:04}"
        for render in ("final", "clean"):
            save(tmp_path / "training" / render / "alley_9" / f"{stem}.png", picture(i + 10 * (render == "clean")))
        depth = np.full((HEIGHT, WIDTH), DEPTH)
        header = TAG + struct.pack("<ii", WIDTH, HEIGHT)
        save_bytes(tmp_path / f"training/depth/alley_9/{stem}.dpt", header + depth.astype("<f4").tobytes())
        save_bytes(tmp_path / f"training/camdata_left/alley_9/{stem}.cam", sintel_camera(i))
        if i < T - 1:
            flow = np.full((HEIGHT, WIDTH, 2), (-SHIFT, 0.0))
            flow[box(i)] = (0, -2)
            save_bytes(tmp_path / f"training/flow/alley_9/{stem}.flo", flo(flow))
    return tmp_path


def test_sintel(sintel):
    clip = read_sintel(sintel, "alley_9")
    truth = clip.truth
    assert torch.equal(clip.frames[1], torch.from_numpy(picture(1)))
    assert torch.equal(read_sintel(sintel, "alley_9", render="clean").frames[1], torch.from_numpy(picture(11)))
    assert truth.depth.shape == (T, HEIGHT, WIDTH)
    assert truth.flow.shape == (T - 1, HEIGHT, WIDTH, 2)
    torch.testing.assert_close(truth.world_from_cam[2, :3, 3], torch.tensor([2 * STEP, 0, 0]))
    xyz = transform(truth.world_from_cam[:1], unproject(truth.depth[:1], truth.intrinsics[:1]).flatten(1, 2))
    uv, _ = project(transform(invert(truth.world_from_cam[1:2]), xyz), truth.intrinsics[1:2])
    torch.testing.assert_close(uv.reshape(HEIGHT, WIDTH, 2)[3, 20], torch.tensor([20.0, 3]) + truth.flow[0, 3, 20])


def test_sintel_masks_follow_from_its_truth(sintel):
    """What rises is dynamic in every frame; in the last, which has no flow, it is carried on."""
    mask = read_sintel(sintel, "alley_9").truth.motion_mask
    for i in range(T):
        expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        expected[box(i)] = True
        assert torch.equal(mask[i], expected)
    last = read_sintel(sintel, "alley_9", start=T - 1)
    assert torch.equal(last.truth.motion_mask[0], mask[-1])
    assert last.truth.flow.shape == (0, HEIGHT, WIDTH, 2)
    rigid = np.full((HEIGHT, WIDTH), 255, np.uint8)
    rigid[0, :5] = 0
    for i in range(T):
        save(sintel / f"training/rigidity/alley_9/frame_{i + 1:04}.png", rigid)
    assert read_sintel(sintel, "alley_9").truth.motion_mask.sum() == 5 * T


def test_sintel_of_which_only_a_part_is_there(sintel):
    assert read_sintel(sintel, "alley_9", stride=2).truth.flow is None
    shutil.rmtree(sintel / "training/flow")
    truth = read_sintel(sintel, "alley_9").truth
    assert truth.flow is None
    assert truth.motion_mask is None
    assert truth.depth is not None
    for part in ("depth", "camdata_left"):
        shutil.rmtree(sintel / "training" / part)
    assert read_sintel(sintel, "alley_9").truth is None
    with pytest.raises(InputError, match=r"sequence alley_1, but .* does not exist; the data is at http://sintel"):
        read_sintel(sintel, "alley_1")


def test_sintel_with_a_frame_missing(sintel):
    (sintel / "training/depth/alley_9/frame_0002.dpt").unlink()
    with pytest.raises(InputError, match=r"expected depth of every frame, but .*frame_0002\.dpt does not exist"):
        read_sintel(sintel, "alley_9")


@FEW
@given(flow=arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(2)),
                          elements=st.floats(-1e4, 1e4, width=32)))  # fmt: skip
def test_flow_files_come_through(tmp_path, flow):
    np.testing.assert_array_equal(read_flo(save_bytes(tmp_path / "a.flo", flo(flow))), flow)


def test_unknown_flow_is_nan(tmp_path):
    flow = read_flo(save_bytes(tmp_path / "a.flo", flo(np.array([[[1e10, 0], [2, 3]]]))))
    assert np.isnan(flow[0, 0]).all()
    assert flow[0, 1].tolist() == [2, 3]


@pytest.mark.parametrize("read", [read_flo, read_dpt, read_cam])
@FEW
@given(data=st.binary(max_size=40), tagged=st.booleans())
def test_fuzzed_binary_files(tmp_path, read, data, tagged):
    path = save_bytes(tmp_path / "fuzz.bin", TAG * tagged + data)
    with pytest.raises(InputError, match=r"^path: expected .*, but .*fuzz\.bin is none"):
        read(path)
    with pytest.raises(InputError, match=r"^path: .* cannot be read"):
        read(tmp_path / "nowhere")


def test_real_flow(reference_data):
    """alley_1's flow as the reader gives it warps its second frame onto its first."""
    folder = reference_data / "data" / "sintel_alley_1"
    if not folder.is_dir():
        pytest.skip("no sintel_alley_1")
    flow = torch.from_numpy(read_flo(folder / "frame_0001.flo"))
    first, second = (torch.from_numpy(np.array(Image.open(folder / f"frame_000{i}.png"))).float() for i in (1, 2))
    height, width = flow.shape[:2]
    assert (height, width) == first.shape[:2] == (436, 1024)
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target = torch.stack([u, v], dim=-1) + flow
    grid = (2 * target + 1) / torch.tensor([width, height]) - 1
    warped = torch.nn.functional.grid_sample(second.permute(2, 0, 1)[None], grid[None], align_corners=False)[0]
    error = (warped.permute(1, 2, 0) - first).abs()
    assert error.median() <= 1
    assert error.mean() < 0.3 * (second - first).abs().mean()


def test_sintel_reads_the_real_frames(reference_data, tmp_path):
    """In the release's layout, as far as they are here: two frames and the flow between them."""
    folder = reference_data / "data" / "sintel_alley_1"
    if not folder.is_dir():
        pytest.skip("no sintel_alley_1")
    for kind, pattern in (("final", "*.png"), ("flow", "*.flo")):
        (tmp_path / "training" / kind / "alley_1").mkdir(parents=True)
        for file in folder.glob(pattern):
            shutil.copy(file, tmp_path / "training" / kind / "alley_1")
    clip = read_sintel(tmp_path, "alley_1", long_side=512)
    assert clip.frames.shape == (2, 218, 512, 3)
    full = torch.from_numpy(read_flo(folder / "frame_0001.flo"))
    assert (clip.truth.flow[0] * 2 - full[1::2, 1::2]).abs().max() < 1e-4 + (full[1:] - full[:-1]).abs().max()
    assert clip.truth.depth is None


# TUM RGB-D

GROUND_TRUTH = "# ground truth trajectory\n# file: 'x.bag'\n# timestamp tx ty tz qx qy qz qw\n"
START = 1341846313.0


@pytest.fixture
def tum(tmp_path) -> Path:
    """10 frames at 30 Hz, poses at 100 Hz from frame 1 on, depth 8 ms late and none for frame 4."""
    root = tmp_path / "rgbd_dataset_freiburg3_walking_xyz"
    times = START + np.arange(10) / 30
    for i, time in enumerate(times):
        save(root / f"rgb/{time:.6f}.png", picture(i))
        if i != 4:
            save(root / f"depth/{time + 0.008:.6f}.png", np.full((HEIGHT, WIDTH), 5000 + 100 * i, np.uint16))
    listed = [f"{time:.6f} rgb/{time:.6f}.png" for time in times]
    save_text(root / "rgb.txt", "\n".join(["# color images", "# timestamp filename", *listed]) + "\n")
    listed = [f"{time + 0.008:.6f} depth/{time + 0.008:.6f}.png" for i, time in enumerate(times) if i != 4]
    save_text(root / "depth.txt", "# depth maps\n" + "\n".join(listed))
    lines = []
    for time in START + 0.025 + np.arange(30) / 100:
        x, y, z, w = Rotation.from_rotvec([0, time - START, 0]).as_quat()
        lines.append(f"{time:.4f} {time - START:.4f} 0.5 -1 {x:.8f} {y:.8f} {z:.8f} {w:.8f}")
    save_text(root / "groundtruth.txt", GROUND_TRUTH + "\n".join(lines) + "\n")
    return root


def test_tum_associates_and_selects(tum):
    """Poses reach from 25 to 315 ms: frames 1 to 9 (300 ms) have one, and every third of these is 1, 4, 7."""
    clip = read_tum(tum)
    assert len(clip) == 3
    assert clip.fps == 10
    for j, i in enumerate((1, 4, 7)):
        assert torch.equal(clip.frames[j], torch.from_numpy(picture(i)))
        pose = clip.truth.world_from_cam[j]
        assert abs(pose[0, 3] - i / 30) < 0.006
        assert pose[1:3, 3].tolist() == [0.5, -1]
        turned = Rotation.from_matrix(pose[:3, :3].double().numpy()).as_rotvec()
        np.testing.assert_allclose(turned, [0, pose[0, 3], 0], atol=1e-4)
    assert torch.equal(clip.truth.depth.flatten(1)[:, 0], torch.tensor([1.02, 0, 1.14]))
    np.testing.assert_allclose(clip.truth.intrinsics[0, [0, 1, 0, 1], [0, 1, 2, 2]], [535.4, 539.2, 320.1, 247.6])
    assert clip.intrinsics is None
    assert len(read_tum(tum, stride=1, max_frames=None)) == 9
    assert len(read_tum(tum, start=1, max_frames=2)) == 2


def test_tum_of_which_only_a_part_is_there(tum):
    (tum / "groundtruth.txt").unlink()
    (tum / "depth.txt").unlink()
    clip = read_tum(tum, stride=1)
    assert len(clip) == 10
    assert clip.truth.depth is None
    assert clip.truth.world_from_cam is None
    plain = tum.rename(tum.with_name("my_recording"))
    assert read_tum(plain).truth.intrinsics is None


def test_tum_bad_files(tum):
    with pytest.raises(InputError, match=r"a sequence of TUM RGB-D, but .* does not exist; the data is at https://cvg"):
        read_tum(tum.parent)
    with pytest.raises(InputError, match=r"start: expected less than the 9 frames"):
        read_tum(tum, start=9)
    truth = (tum / "groundtruth.txt").read_text()
    for content in (
        "",
        "# nothing\n",
        "1 2 3\n",
        truth + "1 2 3\n",
        truth + "1 2 3 4 5 6 7 x\n",
        "1 0 0 0 nan 0 0 1\n",
    ):
        (tum / "groundtruth.txt").write_text(content)
        with pytest.raises(InputError, match=r"^path: expected lines of: timestamp tx .*groundtruth\.txt is none"):
            read_tum(tum)
    (tum / "groundtruth.txt").write_text("1 0 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match=r"expected unit quaternions, but .* has one of length 0"):
        read_tum(tum)
    (tum / "groundtruth.txt").write_text("1 0 0 0 0 0 0 1\n")
    with pytest.raises(InputError, match=r"expected poses within 20 ms of the frames"):
        read_tum(tum)
    (tum / "groundtruth.txt").write_text(truth)
    depth = sorted((tum / "depth").iterdir())[1]
    save(depth, picture())
    with pytest.raises(InputError, match=r"expected a 16-bit depth image, but .* has Pillow's mode RGB"):
        read_tum(tum)
    (tum / "rgb.txt").write_text("1341846313.0 rgb/none.png\n")
    (tum / "groundtruth.txt").unlink()
    with pytest.raises(InputError, match=r"a frame of TUM RGB-D, but .*none\.png does not exist"):
        read_tum(tum)


def test_real_frames_in_tums_layout(reference_data, tmp_path):
    """The ten real frames under the times at which their poses stand in the real ground truth: seen from the next
    frame, most points of one lie at the depth that is measured there."""
    folder = reference_data / "data"
    if not (folder / "tum_fr1_xyz_rgbd10").is_dir():
        pytest.skip("no tum_fr1_xyz_rgbd10")
    real = folder / "tum_fr1_xyz_rgbd10"
    path = read_trajectory(folder / "traj" / "freiburg1_xyz-groundtruth.txt")
    root = tmp_path / "rgbd_dataset_freiburg1_xyz"
    shutil.copytree(real / "rgb", root / "rgb")
    shutil.copytree(real / "depth", root / "depth")
    shutil.copy(folder / "traj" / "freiburg1_xyz-groundtruth.txt", root / "groundtruth.txt")
    lists = {"rgb": [], "depth": []}
    for i, row in json.loads((real / "ground_truth.json").read_text()).items():
        off = (path.world_from_cam - torch.tensor(row["transformation"], dtype=torch.float64)).abs().amax(dim=(1, 2))
        assert off.min() < 2e-3
        for kind, lines in lists.items():
            lines.append(f"{path.times_s[off.argmin()]:.4f} {kind}/{i}.png")
    for kind, lines in lists.items():
        save_text(root / f"{kind}.txt", "\n".join(lines))
    clip = read_tum(root, stride=1)
    assert clip.frames.shape == (10, 480, 640, 3)
    truth = clip.truth
    xyz = unproject(truth.depth[0], truth.intrinsics[0]).reshape(-1, 3)[truth.depth[0].flatten() > 0]
    uv, z = project(transform(invert(truth.world_from_cam[5]) @ truth.world_from_cam[0], xyz), truth.intrinsics[5])
    column, row = uv.round().long().unbind(-1)
    inside = (column >= 0) & (column < 640) & (row >= 0) & (row < 480)
    there = truth.depth[5][row[inside], column[inside]]
    seen = there > 0
    assert ((there - z[inside]).abs() / z[inside])[seen].median() < 0.02
    assert (truth.depth[0].flatten()[truth.depth[0].flatten() > 0].median() - 1.5).abs() < 1


# ScanNet


@pytest.fixture
def scannet(tmp_path) -> Path:
    """Colour at twice the resolution of depth, 12 scans; depth tells its own column in mm; pose 3 is lost."""
    root = tmp_path / "scene0707_00"
    for i in range(12):
        save(root / f"color/{i}.jpg", picture(i, 2 * HEIGHT, 2 * WIDTH))
        columns = np.broadcast_to(1000 + np.arange(WIDTH), (HEIGHT, WIDTH)).astype(np.uint16)
        save(root / f"depth/{i}.png", np.ascontiguousarray(columns))
        pose = np.full((4, 4), -np.inf) if i == 3 else np.eye(4)
        pose[0, 3] = pose[0, 3] if i == 3 else i
        save_text(root / f"pose/{i}.txt", "\n".join(" ".join(f"{x:f}" for x in row) for row in pose) + "\n")
    for camera, scale in (("color", 2.0), ("depth", 1.0)):
        K = np.diag([30 * scale, 30 * scale, 1, 1])
        K[:2, 2] = scale * (np.array([WIDTH, HEIGHT]) / 2) - 0.5
        text = "\n".join(" ".join(f"{x:f}" for x in row) for row in K)
        save_text(root / f"intrinsic/intrinsic_{camera}.txt", text)
    return root


def test_scannet(scannet):
    """Frames 0, 3, 6, 9, in the order of numbers and not of names; a depth pixel covers two colour pixels."""
    clip = read_scannet(scannet)
    assert clip.frames.shape == (4, 2 * HEIGHT, 2 * WIDTH, 3)
    assert clip.fps == 10
    assert clip.truth.world_from_cam[:, 0, 3].nan_to_num(-1).tolist() == [0, -1, 6, 9]
    assert clip.truth.world_from_cam[1].isnan().all()
    columns = torch.arange(2 * WIDTH) // 2
    torch.testing.assert_close(clip.truth.depth[0, 5], 1 + columns / 1000)
    assert clip.truth.intrinsics[0, 0, 0] == 60
    small = read_scannet(scannet, long_side=WIDTH)
    torch.testing.assert_close(small.truth.depth[0, 5], 1 + torch.arange(WIDTH) / 1000)
    torch.testing.assert_close(small.truth.intrinsics[0, 0, 2], torch.tensor((WIDTH - 1) / 2))


def test_scannet_depth_beyond_its_image_is_unknown(scannet):
    K = np.diag([60.0, 60, 1, 1])
    K[:2, 2] = WIDTH + 20 - 0.5, HEIGHT - 0.5
    save_text(scannet / "intrinsic/intrinsic_color.txt", "\n".join(" ".join(map(str, row)) for row in K))
    depth = read_scannet(scannet, max_frames=1).truth.depth[0, 5]
    assert (depth[:20] == 0).all()
    assert (depth[20:] > 0).all()


def test_scannet_bad_files(scannet):
    with pytest.raises(InputError, match=r"exported scan of ScanNet, but .* the data is at http://www\.scan-net\.org"):
        read_scannet(scannet.parent)
    (scannet / "depth/3.png").unlink()
    with pytest.raises(InputError, match=r"expected depth of every frame, but .*depth has none of 3"):
        read_scannet(scannet)
    for content in ("1 2 3", "a b c d\n" * 4, ""):
        (scannet / "pose/0.txt").write_text(content)
        with pytest.raises(InputError, match=r"^path: expected a 4x4 matrix of numbers, but .*0\.txt is none"):
            read_scannet(scannet, max_frames=1)


# TAP-Vid


def jpeg(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def tap_example(as_jpeg: bool = False) -> dict[str, np.ndarray]:
    """Three points: one always visible, one from frame 2 on, one never."""
    video = np.stack([picture(i) for i in range(T)])
    points = np.random.default_rng(0).random((3, T, 2)).astype(np.float32)
    points[0, 1] = (8 / WIDTH, 6 / HEIGHT)
    occluded = np.zeros((3, T), bool)
    occluded[1, :2], occluded[2] = True, True
    images = np.array([jpeg(frame) for frame in video])
    return {"video": images if as_jpeg else video, "points": points, "occluded": occluded}


def dumped(path: Path, content: object) -> Path:
    return save_bytes(path, pickle.dumps(content))


def test_tap_vid_davis(tmp_path):
    path = dumped(tmp_path / "tapvid_davis.pkl", {"goat": tap_example(), "car": tap_example()})
    clip = read_tap_vid(path, "car")
    tracks = clip.truth.tracks
    assert torch.equal(clip.frames[2], torch.from_numpy(picture(2)))
    assert tracks.uv.shape == (T, 2, 2)
    torch.testing.assert_close(tracks.uv[1, 0], torch.tensor([8.0, 6.0]))
    assert tracks.visible.T.tolist() == [[True] * 4, [False, False, True, True]]
    assert tracks.query_frame.tolist() == [0, 2]
    assert tracks.mobility.isnan().all()
    assert [name for name, _ in tap_vid_clips(tmp_path)] == ["goat", "car"]
    half = read_tap_vid(path, "car", long_side=WIDTH // 2).truth.tracks
    torch.testing.assert_close(half.uv, (tracks.uv + 0.5) / 2 - 0.5)
    with pytest.raises(InputError, match=r"name: expected a video of .*, but none is called 'dog'"):
        read_tap_vid(path, "dog")


def test_tap_vid_kinetics(tmp_path):
    for shard in range(2):
        dumped(tmp_path / f"000{shard}_of_0010.pkl", [tap_example(as_jpeg=True)] * 2)
    clips = dict(tap_vid_clips(tmp_path))
    assert list(clips) == ["0000_of_0010/0", "0000_of_0010/1", "0001_of_0010/0", "0001_of_0010/1"]
    clip = read_tap_vid(tmp_path, "0001_of_0010/1")
    assert clip.fps == 25
    assert torch.equal(clip.frames, clips["0001_of_0010/1"].frames)
    assert (clip.frames[3].float() - torch.from_numpy(picture(3)).float()).abs().mean() < 4


def test_tap_vid_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"pickles of TAP-Vid, but .* does not exist; the data is at https://github"):
        read_tap_vid(tmp_path / "nowhere", "goat")
    with pytest.raises(InputError, match=r"expected pickles of TAP-Vid, but .* has none; the data is at"):
        read_tap_vid(tmp_path, "goat")
    good = tap_example()
    bad = [
        3,
        {"goat": 3},
        {"goat": {"video": good["video"]}},
        {"goat": good | {"points": good["points"][:, :2]}},
        {"goat": good | {"occluded": good["occluded"].astype(np.float32)}},
        {"goat": good | {"points": np.full_like(good["points"], np.nan)}},
        {"goat": good | {"video": good["video"][..., :2]}},
        {"goat": good | {"video": [b"no image"] * T}},
        {"goat": good | {"video": [jpeg(picture())[:100]] * T}},
        {"goat": good | {"video": []}},
        {"goat": good | {"video": 5}},
        {"goat": good | {"video": [1, 2, 3, 4]}},
    ]
    for content in bad:
        dumped(tmp_path / "bad.pkl", content)
        with pytest.raises(InputError, match=r"^path: expected .*bad\.pkl"):
            read_tap_vid(tmp_path / "bad.pkl", "goat")


def test_davis_reads_the_real_camel(reference_data):
    root = reference_data / "data" / "davis"
    if not root.is_dir():
        pytest.skip("no DAVIS")
    clip = read_davis(root, "camel", max_frames=6, long_side=427)
    assert clip.frames.shape == (6, 240, 427, 3)
    assert 0.1 < clip.truth.motion_mask.float().mean() < 0.3
    assert clip.truth.segmentation.unique().tolist() == [0, 1]


def test_selection_is_checked_as_by_load_clip(davis, tum):
    for read in (lambda **options: read_davis(davis, "bear", **options), lambda **options: read_tum(tum, **options)):
        for name, value in (("start", -1), ("stride", 0), ("max_frames", 0), ("long_side", 3)):
            with pytest.raises(InputError, match=f"^{name}: expected"):
                read(**{name: value})
