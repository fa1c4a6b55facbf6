"""Every export against the tool or the formula that it is for, on cameras and depth that are known exactly.

The video's own pixels are 128x96, the clip's 64x48: half of all that can go wrong is a factor or half a pixel."""

import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
import roma
import torch
import trimesh
from evo.tools import file_interface
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import c4d_nb.export as exports
from c4d_nb import Clip, Tracks
from c4d_nb.camera import invert, pinhole, pixel_grid, pose, rays
from c4d_nb.errors import InputError
from c4d_nb.export import to_colmap, to_glb, to_nerfstudio, to_npz, to_ply, to_ply_sequence, to_tum
from c4d_nb.export.nerfstudio import read_transforms
from c4d_nb.export.ply import read_ply
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.resize import Resize

T, HEIGHT, WIDTH = 3, 48, 64
ORIGINAL = Resize(96, 128, HEIGHT, WIDTH)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def result_of(seed: int = 0, shift: float = 0.0, scale: float = 1.0, frames: int = T) -> Reconstruction:
    """Smooth random depth around 3 from a moving, turning camera of unequal focal lengths; a mover in the middle."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 1, 4, 5, generator=generator)
    depth = scale * (2.9 + 0.2 * torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[:, 0])
    K = pinhole(60.0, HEIGHT, WIDTH).repeat(frames, 1, 1)
    K[:, 1, 1], K[:, 0, 2], K[:, 0, 0] = 61.5, 30.25, 60 + torch.arange(frames)
    rotvec = 0.2 * torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    centres = scale * torch.rand(frames, 3, generator=generator, dtype=torch.float64) + shift
    world_from_cam = pose(roma.rotvec_to_rotmat(rotvec), centres).float()
    mask = torch.zeros(frames, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, 20:30, 20:40] = True
    confidence = 1 + 9 * torch.rand(frames, HEIGHT, WIDTH, generator=generator)
    rgb = torch.randint(0, 256, (frames, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    ones = torch.ones(frames, 2)
    tracks = Tracks(torch.zeros(frames, 2, 2), ones.bool(), ones, 0 * ones, torch.zeros(2, dtype=torch.long))
    clip = Clip(rgb, 10.0, resize=ORIGINAL)
    return Reconstruction(depth, confidence, K, world_from_cam, mask, tracks, torch.zeros(frames, 2, 3), {}, clip)


@pytest.fixture
def result() -> Reconstruction:
    return result_of()


def original_K(result: Reconstruction, frame: int) -> np.ndarray:
    """By hand: twice the focal length, and 2 (c + 1/2) - 1/2."""
    K = result.intrinsics[frame].double().numpy().copy()
    K[:2, :2] *= 2
    K[:2, 2] = 2 * (K[:2, 2] + 0.5) - 0.5
    return K


def static_cloud(result: Reconstruction, min_confidence: float = 0) -> np.ndarray:
    """World points of static pixels, by the formula."""
    uv = pixel_grid(HEIGHT, WIDTH).double()
    xyz = []
    for i in range(T):
        keep = ~result.motion_mask[i] & (result.confidence[i] > min_confidence)
        cam = (result.depth[i].double()[..., None] * rays(result.intrinsics[i].double(), uv))[keep]
        P = result.world_from_cam[i].double()
        xyz.append(cam @ P[:3, :3].T + P[:3, 3])
    return torch.cat(xyz).numpy()


def test_colmap_reads_it(result, tmp_path):
    """pycolmap's own camera model sees each point at the pixel, in its convention, that the point comes from."""
    to_colmap(result, tmp_path / "model", min_confidence=0)
    model = pycolmap.Reconstruction(str(tmp_path / "model" / "sparse" / "0"))
    assert (len(model.images), len(model.cameras)) == (T, T)
    assert len(model.points3D) == (~result.motion_mask).sum()
    assert model.is_valid()
    grid = 2 * (pixel_grid(HEIGHT, WIDTH).double().numpy() + 0.5)
    for i in range(T):
        image = model.images[i + 1]
        assert image.name == f"frame_0000{i}.jpg"
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height, camera.model.name) == (128, 96, "PINHOLE")
        K = original_K(result, i)
        np.testing.assert_allclose(camera.params, [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5], rtol=1e-12)
        world_from_cam = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(world_from_cam, result.world_from_cam[i, :3], atol=1e-6)
        pixels = grid[~result.motion_mask[i].numpy()]
        for j in range(0, len(image.points2D), 97):
            point = model.points3D[image.points2D[j].point3D_id]
            np.testing.assert_allclose(image.points2D[j].xy, pixels[j], atol=1e-9)
            np.testing.assert_allclose(image.project_point(point.xyz), pixels[j], atol=1e-3)
            row, column = ((pixels[j] - 1) / 2).round().astype(int)[::-1]
            assert point.color.tolist() == result.clip.frames[i, row, column].tolist()
    assert model.compute_mean_reprojection_error() < 1e-3
    for file in (tmp_path / "model" / "images").iterdir():
        assert cv2.imread(str(file)).shape == (96, 128, 3)


def test_colmap_shares_a_camera_that_does_not_change(result, tmp_path):
    same = replace(result, intrinsics=result.intrinsics[:1].repeat(T, 1, 1))
    model = pycolmap.Reconstruction(str(to_colmap(same, tmp_path / "m") / "sparse" / "0"))
    assert len(model.cameras) == 1


def test_own_frames_are_what_is_written(result, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (T, 96, 128, 3), np.uint8)
    smooth = [cv2.GaussianBlur(frame, (0, 0), 5) for frame in noise]
    to_colmap(result, tmp_path / "m", originals=iter(smooth))
    for i in range(T):
        read = cv2.imread(str(tmp_path / "m" / "images" / f"frame_0000{i}.jpg"))[..., ::-1]
        assert np.abs(read.astype(int) - smooth[i]).mean() < 2
    for wrong, message in ((smooth[:2], "expected 3 frames, but there are 2"), (smooth * 2, "expected 3 frames of"),
                           ([f[1:] for f in smooth], "of 128x96 px, but frame 0 is 128x95")):  # fmt: skip
        with pytest.raises(InputError, match=f"^originals: .*{message}"):
            to_colmap(result, tmp_path / "other", originals=iter(wrong))
        assert not (tmp_path / "other").exists()


def test_nerfstudio_by_hand(result, tmp_path):
    """A ray through the centre of original pixel (u, v), as nerfstudio casts it, meets the point of that pixel."""
    to_nerfstudio(result, tmp_path / "data", min_confidence=0)
    content = json.loads((tmp_path / "data" / "transforms.json").read_text())
    assert (content["w"], content["h"], content["camera_model"]) == (128, 96, "OPENCV")
    assert len(content["frames"]) == T
    for i, frame in enumerate(content["frames"]):
        u, v = 41, 7  # of the clip; in the original, 2 u + 1/2 is the centre of its block
        x, y = 2 * u + 0.5 + 0.5, 2 * v + 0.5 + 0.5  # nerfstudio's image coordinates count from the corner
        ray = np.array([(x - frame["cx"]) / frame["fl_x"], -(y - frame["cy"]) / frame["fl_y"], -1.0])
        world_from_gl = np.array(frame["transform_matrix"])
        point = world_from_gl[:3, :3] @ (result.depth[i, v, u].item() * ray) + world_from_gl[:3, 3]
        cam = result.depth[i, v, u].double() * rays(result.intrinsics[i].double(), torch.tensor([u, v]).double())
        P = result.world_from_cam[i].double()
        np.testing.assert_allclose(point, (P[:3, :3] @ cam + P[:3, 3]).numpy(), atol=1e-6)
        mask = cv2.imread(str(tmp_path / "data" / frame["mask_path"]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask == 0, result.motion_mask[i].numpy().repeat(2, 0).repeat(2, 1))
        assert cv2.imread(str(tmp_path / "data" / frame["file_path"])).shape == (96, 128, 3)
    cloud = trimesh.load(tmp_path / "data" / content["ply_file_path"])
    assert len(cloud.vertices) == (~result.motion_mask).sum()


def test_ply_of_the_static_scene(result, tmp_path):
    cloud = trimesh.load(to_ply(result, tmp_path / "a.ply", min_confidence=0))
    np.testing.assert_allclose(cloud.vertices, static_cloud(result), atol=1e-6)
    colors = result.clip.frames[~result.motion_mask].numpy()
    np.testing.assert_array_equal(np.asarray(cloud.colors)[:, :3], colors)


def test_confidence_and_budget(result, tmp_path):
    measured = read_ply(to_ply(result, tmp_path / "a.ply", min_confidence=6))["xyz"]
    np.testing.assert_allclose(measured, static_cloud(result, 6), atol=1e-6)
    assert 0 < len(measured) < len(static_cloud(result))
    few = read_ply(to_ply(result, tmp_path / "b.ply", min_confidence=6, max_points=50))["xyz"]
    assert len(few) == 50
    assert {tuple(x) for x in few} <= {tuple(x) for x in measured}
    # More than a tenth is above 4: without a threshold that is what is exported, as it is what the viewer shows.
    np.testing.assert_allclose(read_ply(to_ply(result, tmp_path / "c.ply"))["xyz"], static_cloud(result, 4), atol=1e-6)


def test_ply_of_frames_has_what_moves(result, tmp_path):
    to_ply_sequence(result, tmp_path / "seq")
    assert sorted(f.name for f in (tmp_path / "seq").iterdir()) == [f"frame_0000{i}.ply" for i in range(T)]
    for i in range(T):
        wanted = result.motion_mask[i] | (result.confidence[i] > 4)
        assert len(read_ply(tmp_path / "seq" / f"frame_0000{i}.ply")) == wanted.sum()
    far = result.depth.clone()
    far[1] = torch.inf
    to_ply_sequence(replace(result, depth=far), tmp_path / "gap")
    assert [len(read_ply(tmp_path / "gap" / f"frame_0000{i}.ply")) > 0 for i in range(T)] == [True, False, True]
    one = to_ply(result, tmp_path / "one.ply", frame=1)
    assert one.read_bytes() == (tmp_path / "seq" / "frame_00001.ply").read_bytes()
    strict = read_ply(to_ply(result, tmp_path / "strict.ply", frame=1, min_confidence=6))
    assert len(strict) == (result.confidence[1] > 6).sum()


def test_glb_is_upright_and_lies_where_it_should(result, tmp_path):
    """The mean camera looks along -z with y up; distances are kept; a frustum stands at every camera."""
    scene = trimesh.load(to_glb(result, tmp_path / "a.glb", min_confidence=0))
    matrix, name = scene.graph.get("points")
    xyz = trimesh.transform_points(scene.geometry[name].vertices, matrix)
    world = static_cloud(result)
    np.testing.assert_allclose(
        np.linalg.norm(xyz - xyz[0], axis=1), np.linalg.norm(world - world[0], axis=1), atol=1e-5
    )
    rotation, _, _, _ = np.linalg.lstsq(world - world.mean(0), xyz - xyz.mean(0), rcond=None)
    gltf_from_world = rotation.T
    axes = gltf_from_world @ result.world_from_cam[:, :3, :3].double().mean(0).numpy()
    np.testing.assert_allclose(axes, np.diag([1, -1, -1]), atol=0.05)
    assert abs(np.linalg.det(gltf_from_world) - 1) < 1e-4
    matrix, name = scene.graph.get("cameras")
    corners = trimesh.transform_points(scene.geometry[name].vertices, matrix)
    for centre in result.world_from_cam[:, :3, 3].double().numpy():
        assert np.linalg.norm(corners - (gltf_from_world @ centre), axis=1).min() < 1e-4
    gray = 255 * ((np.array([128, 10]) / 255 + np.array([0.055, 0])) / np.array([1.055, 12.92])) ** np.array([2.4, 1])
    assert exports.glb._linear(torch.tensor([[128, 10, 255]], dtype=torch.uint8)).tolist() == [
        [*gray.round().astype(int), 255, 255]
    ]


def test_tum_is_read_by_evo(result, tmp_path):
    path = file_interface.read_tum_trajectory_file(str(to_tum(result, tmp_path / "path.txt")))
    np.testing.assert_allclose(path.timestamps, [0, 0.1, 0.2])
    np.testing.assert_allclose(np.stack(path.poses_se3), result.world_from_cam, atol=1e-6)


def test_npz_is_plain(result, tmp_path):
    with np.load(to_npz(result, tmp_path / "a.npz"), allow_pickle=False) as file:
        arrays = dict(file)
    np.testing.assert_array_equal(arrays["depth"], result.depth)
    np.testing.assert_array_equal(arrays["intrinsics"], result.intrinsics)
    np.testing.assert_allclose(arrays["intrinsics_original"][1], original_K(result, 1))
    assert arrays["original_size"].tolist() == [96, 128]
    assert arrays["motion_mask"].dtype == bool
    for name in ("track_uv", "track_visible", "track_confidence", "track_mobility", "track_query_frame"):
        np.testing.assert_array_equal(arrays[name], getattr(result.tracks, name.removeprefix("track_")))


WRITERS = {
    "colmap": to_colmap,
    "nerfstudio": to_nerfstudio,
    "a.ply": to_ply,
    "sequence": to_ply_sequence,
    "a.glb": to_glb,
    "path.txt": to_tum,
    "a.npz": to_npz,
}


@pytest.mark.parametrize("name", WRITERS)
@FEW
@given(seed=st.integers(0, 99), shift=st.sampled_from([0.0, -7.0, 300.0]), scale=st.sampled_from([1e-2, 1.0, 1e3]))
def test_any_scene_is_exported_within_tolerance(tmp_path, name, seed, shift, scale):
    """Far from the origin, tiny or huge: the check that every writer makes holds, and files are rewritten."""
    assert WRITERS[name](result_of(seed, shift * scale, scale), tmp_path / name) == tmp_path / name


def wrong(result: Reconstruction, kind: str) -> Reconstruction:
    if kind == "pose NaN":
        return replace(result, world_from_cam=result.world_from_cam.clone().index_fill(0, torch.tensor(1), torch.nan))
    if kind == "pose scaled":
        return replace(result, world_from_cam=result.world_from_cam * torch.tensor([2.0, 2, 2, 1])[:, None])
    if kind == "mirrored":
        return replace(result, world_from_cam=result.world_from_cam * torch.tensor([-1.0, 1, 1, 1]))
    if kind == "focal zero":
        return replace(result, intrinsics=result.intrinsics * torch.tensor([0.0, 1, 1])[:, None])
    return replace(result, world_from_cam=result.world_from_cam[:2])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["pose NaN", "pose scaled", "mirrored", "focal zero", "pose missing"])
def test_cameras_that_are_none(result, tmp_path, unchecked, name, kind):
    with pytest.raises(InputError, match=r"^(result|intrinsics): expected"):
        WRITERS[name](wrong(result, kind), tmp_path / "out" / name)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["colmap", "nerfstudio", "a.ply", "sequence", "a.glb"])
def test_nothing_to_export(result, tmp_path, name):
    write = WRITERS[name]
    with pytest.raises(InputError, match=r"finite positive depth.*, but there (is|are) none"):
        write(result, tmp_path / name, min_confidence=99)
    with pytest.raises(InputError, match="finite positive depth"):
        write(replace(result, depth=result.depth * torch.nan), tmp_path / name)
    with pytest.raises(InputError, match="max_points: expected 1 or more"):
        write(result, tmp_path / name, max_points=0)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["colmap", "nerfstudio", "a.ply", "sequence", "a.glb", "a.npz"])
def test_maps_of_another_size(result, tmp_path, unchecked, name):
    with pytest.raises(InputError, match="result: expected depth of the clip's shape"):
        WRITERS[name](replace(result, depth=result.depth[:, 1:]), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_frames_beyond_the_clip(result, tmp_path):
    for write, name in ((to_ply, "a.ply"), (to_glb, "a.glb")):
        for frame in (-1, T):
            with pytest.raises(InputError, match="frame: expected 0 to 2"):
                write(result, tmp_path / name, frame=frame)


BROKEN = {
    "colmap": ("colmap", "_camera_table", lambda data: data[:-8] + struct.pack("<d", 0.1)),
    "nerfstudio": ("nerfstudio", "_transforms", lambda content: content | {"frames": content["frames"][::-1]}),
    "a.ply": ("ply", "read_ply", lambda vertices: vertices[::-1]),
    "sequence": ("ply", "read_ply", lambda vertices: vertices[1:]),
    "a.glb": ("glb", "_shift", lambda matrix: matrix + 0.01),
    "path.txt": ("tum", "read_trajectory", lambda path: replace(path, world_from_cam=invert(path.world_from_cam))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_when_read_back_is_not_written(result, tmp_path, monkeypatch, name):
    """A fault in writing or reading, put there on purpose, is found; what was there before stays as it was."""
    out = tmp_path / "out"
    WRITERS[name](result, out / name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    module, attribute, fault = BROKEN[name]
    module = sys.modules[f"c4d_nb.export.{module}"]
    function = getattr(module, attribute)
    monkeypatch.setattr(module, attribute, lambda *arguments: fault(function(*arguments)))
    with pytest.raises(InputError, match=r"^result: expected .*(px off; nothing was written|read back)"):
        WRITERS[name](result_of(1), out / name)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_wrong_archive_is_not_written(result, tmp_path, monkeypatch):
    module = sys.modules["c4d_nb.export.npz"]
    write = module.write_archive
    for fault in ({"world_from_cam": result.world_from_cam.double() + 1e-3}, {"depth": result.depth + 1e-3}):
        changed = lambda path, kind, arrays, fault=fault: write(path, kind, arrays | fault)  # noqa: E731
        monkeypatch.setattr(module, "write_archive", changed)
        with pytest.raises(InputError, match=f"expected its {next(iter(fault))} in .*; nothing was written"):
            to_npz(result, tmp_path / "a.npz")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_places_that_cannot_be_written(result, tmp_path, name):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(InputError, match=r"^path: cannot write"):
        WRITERS[name](result, tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize(
    ("write", "folders"),
    [(to_colmap, ["images"]), (to_nerfstudio, ["images", "masks"]), (to_ply_sequence, ["."])],
    ids=["colmap", "nerfstudio", "ply_sequence"],
)
def test_frames_of_a_longer_video_go_away(result, tmp_path, write, folders):
    write(result, tmp_path)
    (tmp_path / folders[0] / "frame_notes.txt").write_text("keep me")
    write(result_of(frames=2), tmp_path)
    for folder in folders:
        frames = {file.stem for file in (tmp_path / folder).glob("frame_0*")}
        assert frames == {"frame_00000", "frame_00001"}
    assert (tmp_path / folders[0] / "frame_notes.txt").read_text() == "keep me"


def test_other_files_stay_but_no_model_is_mixed(result, tmp_path):
    to_colmap(result, tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("keep me")
    to_colmap(result_of(1), tmp_path / "m")
    assert (tmp_path / "m" / "notes.txt").read_text() == "keep me"
    (tmp_path / "m" / "sparse" / "0" / "rigs.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"no model of another writer in .*, but there is rigs\.bin"):
        to_colmap(result, tmp_path / "m")
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "images").write_text("a file")
    with pytest.raises(InputError, match=r"expected to write into a folder .*images, but a file"):
        to_nerfstudio(result, tmp_path / "n")


def test_packages_are_named_where_they_are_missing(result, tmp_path, monkeypatch):
    for package, write, name in (("pycolmap", to_colmap, "m"), ("trimesh", to_glb, "a.glb")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=f"needs {package}, which is not installed: pip install {package}"):
            write(result, tmp_path / name)
        assert not (tmp_path / name).exists()
    assert to_ply(result, tmp_path / "a.ply").exists()


def test_optional_packages_are_never_imported_by_name():
    sources = Path(exports.__file__).parent.parent.rglob("*.py")
    assert not [p for p in sources if re.search(r"^\s*(import|from) (pycolmap|trimesh)", p.read_text(), re.MULTILINE)]


def test_read_transforms_is_the_inverse(result, tmp_path):
    cameras = read_transforms(to_nerfstudio(result, tmp_path / "d") / "transforms.json")
    np.testing.assert_allclose(cameras.intrinsics[2], original_K(result, 2))
    np.testing.assert_allclose(cameras.world_from_cam, result.world_from_cam, atol=1e-6)
    assert (cameras.height, cameras.width) == (96, 128)


def test_foreign_ply(tmp_path):
    for content in (b"", b"ply\n", b"ply\nformat ascii 1.0\nend_header\n"):
        (tmp_path / "a.ply").write_bytes(content)
        with pytest.raises(InputError, match=r"expected a PLY file as written here, but .*a\.ply is none"):
            read_ply(Path(tmp_path / "a.ply"))
