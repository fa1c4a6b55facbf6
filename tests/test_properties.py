"""What holds for every input of the public functions: of any shape and dtype, and where there is next to nothing.

Values come from a generator whose seed hypothesis draws; shapes, dtypes and degenerate cases it draws itself.
"""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from c4d_nb import load_clip
from c4d_nb.alignment import AlignConfig, FastConfig, align, align_fast
from c4d_nb.camera import pinhole, pose
from c4d_nb.clip import Clip, PairPointmaps, Tracks, Truth
from c4d_nb.correspondence.flow import estimate_flow
from c4d_nb.correspondence.queries import sample_grid_queries
from c4d_nb.depth_alignment import DEPTH_ALIGNMENTS
from c4d_nb.errors import InputError
from c4d_nb.kubric.mobility import mobility_labels
from c4d_nb.linear_blend import linear_blend_displacement
from c4d_nb.metrics import dynamic_accuracy, motion_iou, tap_vid, trajectory_errors, video_depth
from c4d_nb.motion_mask import epipolar_motion_masks, fundamental_matrix, sampson_error
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.resize import Resize
from c4d_nb.smoothing import smooth_trajectories

GENERATORS = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))
DTYPES = st.sampled_from([torch.float32, torch.float64])
SIDES = st.integers(1, 45)


def examples(count: int):
    """The same ones in every run, however long each takes."""
    return settings(max_examples=count, derandomize=True, deadline=None)


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def mask(generator: torch.Generator, *shape: int, share: float = 0.5) -> Tensor:
    return torch.rand(shape, generator=generator) < share


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype)


def rotations(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    Q = torch.linalg.qr(normal(generator, *shape, 3, 3, dtype=torch.float64)).Q
    return (Q * Q.det()[..., None, None]).to(dtype)


def some_tracks(generator: torch.Generator, t: int, n: int, size: tuple[int, int], seen: float = 0.8) -> Tracks:
    height, width = size
    return Tracks(
        uv=torch.rand(t, n, 2, generator=generator) * torch.tensor([width, height]) - 0.5,
        visible=mask(generator, t, n, share=seen),
        confidence=torch.rand(t, n, generator=generator),
        mobility=torch.rand(t, n, generator=generator),
        query_frame=torch.randint(0, t, (n,), generator=generator),
    )


def assert_same(found: object, expected: object) -> None:
    """Equal to the bit, dtypes too; NaN is itself."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, Clip | Truth | Tracks | Reconstruction | Resize):
        for field in fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    else:
        assert found == expected


# Correspondences


@examples(40)
@given(SIDES, SIDES, st.integers(1, 50) | st.just(10**9), GENERATORS)
def test_every_cell_has_its_two_queries(height, width, cell, generator):
    queries = sample_grid_queries(noise(generator, height, width, 3), cell=cell, generator=generator)
    columns = -(-width // cell)
    cells = columns * -(-height // cell)
    assert (queries.uv >= 0).all()
    assert (queries.uv < torch.tensor([width, height])).all()
    assert torch.equal(queries.uv, queries.uv.round())
    for chosen in (queries.uv[queries.is_gradient], queries.uv[~queries.is_gradient]):
        column, row = (chosen // cell).long().unbind(-1)
        assert torch.equal(row * columns + column, torch.arange(cells))


@examples(25)
@given(SIDES, SIDES, st.sampled_from(["noise", "black", "same"]), GENERATORS)
def test_flow_of_frames_of_any_size(height, width, kind, generator):
    first, second = noise(generator, 2, height, width, 3) * (kind != "black")
    flow = estimate_flow(first, first if kind == "same" else second)
    assert flow.shape == (height, width, 2)
    assert flow.dtype == torch.float32
    assert flow.isfinite().all()
    if kind != "noise":
        assert flow.abs().max() < 1e-3


@examples(15)
@given(st.integers(2, 6), st.integers(10, 60), GENERATORS)
def test_flow_of_small_frames_is_that_of_the_motion(shift, height, generator):
    """Frames smaller than DIS itself takes follow a smooth pattern as larger ones do."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(60), indexing="ij")
    phase = 6 * torch.rand((), generator=generator)

    def frame(moved: int) -> Tensor:
        wave = 60 * ((u - moved) / 5 + phase).sin() + 60 * (v / 4 + (u - moved) / 9).cos()
        return (wave + 128).to(torch.uint8)[..., None].expand(-1, -1, 3).contiguous()

    flow = estimate_flow(frame(0), frame(shift))[:, 10:-10]
    assert flow[..., 0].median().item() == pytest.approx(shift, abs=0.5)
    assert flow[..., 1].median().item() == pytest.approx(0, abs=0.5)


# Motion masks


@examples(30)
@given(st.integers(0, 20), DTYPES, st.floats(1e-3, 1e3), st.booleans(), GENERATORS)
def test_sampson_error_is_a_squared_distance(n, dtype, scale, negative, generator):
    F = normal(generator, 3, 3, dtype=dtype)
    uv_1, uv_2 = 100 * normal(generator, 2, n, 2, dtype=dtype)
    error = sampson_error(F, uv_1, uv_2)
    assert error.dtype == dtype
    assert error.shape == (n,)
    assert error.isfinite().all()
    assert (error >= 0).all()
    scaled = sampson_error(F * (-scale if negative else scale), uv_1, uv_2)
    torch.testing.assert_close(scaled, error, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(sampson_error(F.mT, uv_2, uv_1), error, rtol=1e-3, atol=1e-6)  # whichever is first


METHODS = st.sampled_from(["lmeds", "magsac", "8point"])


@examples(40)
@given(st.integers(0, 30), DTYPES, METHODS, st.sampled_from(["any", "line", "still", "point", "nan"]), GENERATORS)
def test_a_fundamental_matrix_or_a_clear_refusal(n, dtype, method, kind, generator):
    uv_1, uv_2 = 100 + 50 * normal(generator, 2, n, 2, dtype=dtype)
    if kind == "line":
        uv_1[:, 1], uv_2[:, 1] = 2 * uv_1[:, 0], 3 * uv_2[:, 0]
    if kind == "still":
        uv_2 = uv_1.clone()
    if kind == "point":
        uv_1[:] = 7.0
    if kind == "nan" and n:
        uv_2[n // 2, 0] = torch.nan
    if n < 8 or kind in ("point", "nan"):
        with pytest.raises(InputError, match=r"^uv_[12]: expected"):
            fundamental_matrix(uv_1, uv_2, method=method)
        return
    try:
        F = fundamental_matrix(uv_1, uv_2, method=method)
    except InputError:
        if method == "magsac":  # which may find none in noise
            return
        raise
    assert F.dtype == dtype
    assert F.norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.linalg.svdvals(F.double())[2] < 1e-5


@examples(40)
@given(
    st.integers(1, 3),
    st.integers(0, 60),
    st.integers(0, 5),
    st.tuples(SIDES, SIDES),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["paper", "robust"]),
    st.sampled_from([0.0, 1e-2, 5.0, 1e4]),
    GENERATORS,
)
def test_motion_masks_of_any_clip(t, n, e, size, bad, method, motion_px, generator):
    flows = motion_px * normal(generator, e, *size, 2)
    flows[mask(generator, *flows.shape, share=bad)] = torch.nan
    flows[mask(generator, *flows.shape, share=bad / 2)] = torch.inf
    edges = torch.randint(0, t, (e, 2), generator=generator)
    frames = noise(generator, t, *size, 3)
    found = epipolar_motion_masks(flows, some_tracks(generator, t, n, size), edges, method=method, frames=frames)
    assert found.shape == (t, *size)
    assert found.dtype == torch.bool
    if method == "paper":
        silent = [m for m in range(t) if m not in edges[:, 0].tolist()]
        assert not found[silent].any()
    if (n < 15 and method == "paper") or e == 0 or motion_px == 0 or bad == 1:
        assert not found.any()


# Smoothing


@examples(40)
@given(
    st.integers(0, 7),
    st.integers(0, 4),
    st.sampled_from([1, 3, 5, 9]),
    DTYPES,
    st.sampled_from([0.0, 0.7, 1.0]),
    st.fixed_dictionaries({name: st.booleans() for name in ("per_median_step", "both_steps", "shrink_at_ends")}),
    st.sampled_from([1e-6, 1.0, 1e4]),
    GENERATORS,
)
def test_smoothed_tracks_stay_within_their_window(t, n, kernel_size, dtype, seen, options, unit, generator):
    xyz, visible = unit * normal(generator, t, n, 3, dtype=dtype), mask(generator, t, n, share=seen)
    smooth = smooth_trajectories(xyz, kernel_size=kernel_size, visible=visible, **options)
    assert smooth.shape == xyz.shape
    assert smooth.dtype == dtype
    assert smooth.isfinite().all()
    assert torch.equal(smooth[~visible], xyz[~visible])
    for now in range(t):
        reach = slice(max(0, now - kernel_size // 2), now + kernel_size // 2 + 1)
        for track in visible[now].nonzero()[:, 0].tolist():
            window = xyz[reach, track][visible[reach, track]]
            assert (smooth[now, track] >= window.amin(0) - 1e-5 * unit).all()
            assert (smooth[now, track] <= window.amax(0) + 1e-5 * unit).all()
    if kernel_size == 1:
        torch.testing.assert_close(smooth, xyz)


@examples(40)
@given(
    st.integers(0, 12),
    st.integers(0, 9),
    st.integers(1, 6),
    st.sampled_from([1, 2]),
    st.none() | st.sampled_from([1e-3, 1.0, 1e3]),
    DTYPES,
    st.booleans(),
    st.sampled_from([1e-6, 1.0, 1e6]),
    GENERATORS,
)
def test_blended_displacements_lie_between_the_controls(p, q, k, power, radius, dtype, classes, unit, generator):
    points, controls = (unit * normal(generator, count, 3, dtype=dtype) for count in (p, q))
    points[: min(p, q) // 2] = controls[: min(p, q) // 2]  # some lie on a control
    controls[-1:] = controls[:1]  # and two controls in one place
    moved = unit * normal(generator, q, 3, dtype=dtype)
    options = {"k": k, "power": power, "radius": None if radius is None else radius * unit}
    if classes:
        options |= {"point_class": mask(generator, p), "control_class": mask(generator, q)}
    blended = linear_blend_displacement(points, controls, moved, **options)
    assert blended.shape == points.shape
    assert blended.dtype == dtype
    assert blended.isfinite().all()
    if not q:
        assert torch.equal(blended, points)
        return
    shift, slack = blended - points, 1e-5 * unit
    least, most = (extreme(moved, 0) for extreme in (torch.amin, torch.amax))
    assert (shift >= least.clamp(max=0) - slack).all()
    assert (shift <= most.clamp(min=0) + slack).all()
    same = torch.full_like(moved, unit)
    if radius is None and not classes:
        all_one = linear_blend_displacement(points, controls, same, **options)
        torch.testing.assert_close(all_one, points + unit, rtol=1e-4, atol=slack)
    order = torch.randperm(q, generator=generator)
    if classes:
        options["control_class"] = options["control_class"][order]
    shuffled = linear_blend_displacement(points, controls[order], moved[order], **options)
    if k >= q:  # else two controls equally far may be told apart by their order alone
        torch.testing.assert_close(shuffled, blended, rtol=1e-4, atol=slack)


# Scores


@examples(30)
@given(
    st.integers(3, 8),
    DTYPES,
    st.sampled_from(["sim3", "se3", "scale", "origin", "none"]),
    st.sampled_from(["any", "still", "line"]),
    GENERATORS,
)
def test_path_errors_are_finite_and_blind_to_what_is_aligned(t, dtype, alignment, kind, generator):
    target, predicted = (
        pose(rotations(generator, t, dtype=dtype), normal(generator, t, 3, dtype=dtype)) for _ in range(2)
    )
    if kind == "still":
        predicted[:, :3, 3] = 0.0
    if kind == "line":
        predicted[:, 1:3, 3] = 0.0
    errors = trajectory_errors(predicted, target, alignment=alignment)
    assert all(math.isfinite(value) and value >= 0 for value in errors.values())
    assert errors["rpe_r_deg"] <= 180.001
    if alignment == "none" or kind == "line":
        return
    world = pose(rotations(generator, dtype=dtype), normal(generator, 3, dtype=dtype))
    again = trajectory_errors(world @ predicted, target, alignment=alignment)
    assert again == pytest.approx(errors, rel=1e-2, abs=1e-3)


@examples(40)
@given(
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    DTYPES,
    st.sampled_from(DEPTH_ALIGNMENTS),
    st.sampled_from(["any", "constant", "one pixel"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    GENERATORS,
)
def test_depth_scores_are_finite_or_refused(t, h, w, dtype, alignment, kind, known, generator):
    predicted, target = torch.rand(2, t, h, w, generator=generator, dtype=dtype) + 0.1
    if kind == "constant":
        predicted[:] = 3.0
    valid = mask(generator, t, h, w, share=known)
    if kind == "one pixel":
        valid[:] = False
        valid[:1, :1, :1] = True
    target[~valid] = torch.tensor([0.0, torch.nan, torch.inf])[torch.randint(0, 3, (), generator=generator)].to(dtype)
    if not valid.any():
        with pytest.raises(InputError, match=r"^target: expected some valid depth"):
            video_depth(predicted, target, alignment=alignment)
        return
    scores = video_depth(predicted, target, alignment=alignment)
    assert all(math.isfinite(value) and value >= 0 for value in scores.values())
    assert scores["delta_1"] <= 1
    perfect = video_depth(torch.where(valid, target, 1.0), target, alignment=alignment)
    assert perfect["abs_rel"] < 1e-4
    assert perfect["delta_1"] == 1


@examples(25)
@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0]), GENERATORS)
def test_overlap_of_masks(t, h, w, share, generator):
    predicted, target = mask(generator, t, h, w, share=share), mask(generator, t, h, w)
    iou = motion_iou(predicted, target)
    assert 0 <= iou <= 1
    assert iou == motion_iou(target, predicted)
    assert iou == pytest.approx(motion_iou(predicted.flip(0, 1), target.flip(0, 1)))
    assert motion_iou(target, target) == 1


@examples(25)
@given(
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    GENERATORS,
)
def test_accuracy_of_mobility(shape, share, true_share, generator):
    predicted, target = (mask(generator, *shape, share=part) for part in (share, true_share))
    scores = dynamic_accuracy(predicted, target)
    assert all(math.isnan(value) or 0 <= value <= 1 for value in scores.values())
    assert math.isnan(scores["d_acc"]) == (target.numel() == 0)
    assert math.isnan(scores["balanced"]) == (len(target.unique()) < 2)
    if target.numel():
        static = dynamic_accuracy(torch.zeros_like(target), target)
        assert dynamic_accuracy(~predicted, target)["d_acc"] == pytest.approx(1 - scores["d_acc"])
        assert scores["always_static"] == pytest.approx(static["d_acc"])


@examples(30)
@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.sampled_from(["first", "strided"]),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([0.0, 0.6, 1.0]),
    DTYPES,
    GENERATORS,
)
def test_scores_of_tracks(t, n, mode, seen, called, dtype, generator):
    true = 256 * torch.rand(t, n, 2, generator=generator, dtype=dtype)
    uv = true + 6 * normal(generator, t, n, 2, dtype=dtype)
    visible, visible_true = mask(generator, t, n, share=called), mask(generator, t, n, share=seen)
    known = {"query_frame": torch.randint(0, t, (n,), generator=generator), "mode": mode}
    scores = tap_vid(uv, visible, uv_true=true, visible_true=visible_true, **known)
    assert all(math.isnan(value) or 0 <= value <= 1 for value in scores.values())
    for px in (1, 2, 4, 8, 16):
        assert not scores[f"jaccard_{px}"] > scores[f"delta_{px}"]
    within = [scores[f"delta_{px}"] for px in (1, 2, 4, 8, 16)]
    assert within == sorted(within) or math.isnan(within[0])
    assert math.isnan(scores["oa"]) == (n == 0 or t == 1 or (mode == "first" and (known["query_frame"] == t - 1).all()))
    size = {"uv_true": 2 * true, "size": (512, 512)}
    doubled = tap_vid(2 * uv, visible, visible_true=visible_true, **size, **known)
    assert doubled == pytest.approx(scores, nan_ok=True)
    perfect = tap_vid(true, visible_true, uv_true=true, visible_true=visible_true, **known)
    assert all(math.isnan(value) or value == 1 for value in perfect.values())


# Pairs of frames, labels


@examples(40)
@given(st.integers(0, 12), st.lists(st.integers(1, 15), min_size=1, max_size=4))
def test_graph_of_any_clip(t, offsets):
    if t < 2 or min(offsets) >= t:
        with pytest.raises(InputError, match=f"^{'t' if t < 2 else 'offsets'}: expected"):
            sliding_window_graph(t, offsets=offsets)
        return
    edges = sliding_window_graph(t, offsets=offsets)
    assert edges.dtype == torch.int64
    n, m = edges.unbind(-1)
    assert n.min() >= 0
    assert n.max() < t
    assert set((m - n).abs().tolist()) == {k for k in offsets if k < t}
    assert len(edges.unique(dim=0)) == len(edges) == 2 * sum(t - k for k in set(offsets) if k < t)
    assert {(b, a) for a, b in edges.tolist()} == set(map(tuple, edges.tolist()))


@examples(30)
@given(
    st.integers(0, 4),
    st.integers(1, 6),
    st.sampled_from(["clip", "frame", "first"]),
    DTYPES,
    st.booleans(),
    st.sampled_from([0.0, 0.01, 1.0, 1e6]),
    GENERATORS,
)
def test_mobility_of_any_objects(o, t, mode, dtype, spins, threshold, generator):
    positions = normal(generator, o, t, 3, dtype=dtype)
    options = {"mode": mode}
    if spins:
        quaternions = torch.nn.functional.normalize(normal(generator, o, t, 4, dtype=dtype), dim=-1)
        options |= {"quaternions": quaternions, "radii": torch.rand(o, generator=generator, dtype=dtype)}
    labels = mobility_labels(positions, threshold=threshold, **options)
    assert labels.dtype == torch.bool
    assert labels.shape == ((o, t) if mode == "frame" else (o,))
    assert not labels.any() or (t > 1 and threshold < 1e6)
    stricter = mobility_labels(positions, threshold=2 * threshold + 0.1, **options)
    assert not (stricter & ~labels).any()
    if t > 1 and threshold == 0:
        assert labels.all()


# Files


def some_truth(draw: st.DrawFn, generator: torch.Generator, t: int, o: int, h: int, w: int) -> Truth | None:
    parts = {
        "depth": lambda: normal(generator, t, h, w),
        "world_from_cam": lambda: normal(generator, t, 4, 4, dtype=torch.float64),
        "intrinsics": lambda: normal(generator, t, 3, 3),
        "segmentation": lambda: torch.randint(0, o + 1, (t, h, w), generator=generator),
        "positions": lambda: normal(generator, o, t, 3),
        "quaternions": lambda: normal(generator, o, t, 4),
        "is_dynamic": lambda: mask(generator, o),
        "mobility": lambda: mask(generator, o),
        "flow": lambda: normal(generator, t - 1, h, w, 2),
        "tracks": lambda: some_tracks(generator, t, o, (h, w)),
        "motion_mask": lambda: mask(generator, t, h, w),
        "backward_flow": lambda: normal(generator, t - 1, h, w, 2),
        "boxes": lambda: normal(generator, o, 2, 3),
        "object_coordinates": lambda: normal(generator, t, h, w, 3),
        "sample_offset_px": lambda: normal(generator, 2),
    }
    assert set(parts) == {field.name for field in fields(Truth)}
    chosen = draw(st.sets(st.sampled_from(sorted(parts))))
    return Truth(**{name: parts[name]() for name in chosen}) if chosen else None


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    t, h, w = draw(st.tuples(*[st.integers(1, 4)] * 3))
    generator = draw(GENERATORS)
    return Clip(
        frames=noise(generator, t, h, w, 3),
        fps=draw(st.floats(0.01, 1e3)),
        intrinsics=draw(st.sampled_from([None, pinhole(torch.tensor(9.0), h, w).expand(t, 3, 3).clone()])),
        truth=some_truth(draw, generator, t, draw(st.integers(0, 3)), h, w),
        resize=draw(st.sampled_from([None, Resize(2 * h, 3 * w, h, w)])),
    )


@examples(25)
@given(clips())
def test_any_clip_survives_its_file(tmp_path_factory, clip):
    path = clip.save(tmp_path_factory.mktemp("clip") / "clip.npz")
    assert_same(Clip.load(path), clip)
    assert_same(load_clip(path), clip)
    assert [file.name for file in path.parent.iterdir()] == ["clip.npz"]


@examples(25)
@given(clips(), st.integers(0, 3), st.sets(st.sampled_from(["ga", "cma", "cts", "pts"])), st.integers(0, 5), GENERATORS)
def test_any_reconstruction_survives_its_file(tmp_path_factory, clip, n, losses, iterations, generator):
    t, (h, w) = len(clip), clip.size
    tracks = some_tracks(generator, t, n, clip.size, seen=0.5)
    result = Reconstruction(
        depth=normal(generator, t, h, w),
        confidence=normal(generator, t, h, w),
        intrinsics=normal(generator, t, 3, 3),
        world_from_cam=normal(generator, t, 4, 4, dtype=torch.float64),
        motion_mask=mask(generator, t, h, w),
        tracks=tracks,
        tracks_xyz=torch.where(tracks.visible[..., None], normal(generator, t, n, 3), torch.nan),
        losses={name: normal(generator, iterations) for name in losses},
        clip=clip,
    )
    path = result.save(tmp_path_factory.mktemp("result") / "result.npz")
    assert_same(Reconstruction.load(path), result)
    with pytest.raises(InputError, match="expected a clip archive"):
        Clip.load(path)


# Alignment


@pytest.mark.parametrize("solve", [align, align_fast])
@examples(8)
@given(
    st.sampled_from(["any", "one point", "flat", "behind", "on the plane z = 0", "one pixel", "little known"]),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.booleans(),
    st.sampled_from([{}, {"focal_px": 10.0}, {"world_from_cam": torch.eye(4).expand(3, 4, 4)}]),
    GENERATORS,
)
def test_any_pairs_are_aligned(solve, kind, dtype, unit, moving, known, generator):
    edges = sliding_window_graph(3, offsets=(1, 2))
    xyz = normal(generator, 2, len(edges), 8, 8, 3)
    xyz[..., 2] = xyz[..., 2].abs() + 1
    if kind == "one point":
        xyz[:] = 1.0
    if kind == "flat":
        xyz[..., 2] = 1.0
    if kind == "behind":
        xyz[..., 2] *= -1
    if kind == "on the plane z = 0":
        xyz[..., 2] = 0.0
    if kind == "one pixel":
        xyz[:, :, 1:] = xyz[:, :, :, 1:] = 0.0
    confidence = 1 + 5 * torch.rand(2, len(edges), 8, 8, generator=generator)
    if kind == "little known":
        confidence[1:] = confidence[:, 1:] = 1.0
    pairs = PairPointmaps(edges, *(unit * xyz).to(dtype), *confidence.to(dtype))
    moved = (
        {"flows": normal(generator, len(edges), 8, 8, 2), "motion_masks": mask(generator, 3, 8, 8)} if moving else {}
    )
    config = {align: AlignConfig(iterations=5), align_fast: FastConfig(rounds=2, full_rounds=1)}[solve]
    found = solve(pairs, **known, **moved, config=config)
    for name in ("depth", "confidence", "intrinsics", "world_from_cam", "world_from_pair"):
        assert getattr(found, name).isfinite().all(), name
    assert found.depth.shape == (3, 8, 8)
    assert (found.depth > 0).all()
    rotation = found.world_from_cam[:, :3, :3].double()
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(3, 3, 3), rtol=0, atol=1e-4)
