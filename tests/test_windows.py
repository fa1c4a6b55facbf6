"""Windows that DynPT learns from: images, points and truth stay together whatever is done to them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from test_movi_writer import body

from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, Tracks, Truth
from c4d_nb.correspondence import windows
from c4d_nb.correspondence.dynpt import first_logits
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.toy import sliding_clip
from c4d_nb.correspondence.tracking import chain_flow
from c4d_nb.correspondence.windows import (
    ClipSource,
    TrackWindow,
    TrackWindows,
    clip_sources,
    collate,
    cropped,
    guessed,
    random_crop,
    with_changed_colors,
    with_occluders,
)
from c4d_nb.errors import InputError
from c4d_nb.kubric.movi_writer import write_movi
from c4d_nb.kubric.render import render_clip
from c4d_nb.kubric.scene import Scene, Texture, look_at

OPTIONS = {"size": 32, "frames": 6, "points": 8}


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    sliding_clip(0, frames=10).save(folder / "0.npz")
    return folder


def clip_of(frames: torch.Tensor, uv: torch.Tensor, visible: torch.Tensor | None = None) -> Clip:
    """Every second track is dynamic. Queries are in the first frame."""
    t, n = uv.shape[:2]
    visible = torch.ones(t, n, dtype=torch.bool) if visible is None else visible
    mobility = (torch.arange(n) % 2).float().expand(t, n)
    return Clip(
        frames, 12.0, truth=Truth(tracks=Tracks(uv, visible, torch.ones(t, n), mobility, torch.zeros(n).long()))
    )


def random_clip(seed=0, t=10, n=20, size=(40, 48)) -> Clip:
    """Noise, through which points walk on straight lines. Each is seen in about half of the frames."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(2, n, 2, generator=generator) * torch.tensor([size[1] - 1, size[0] - 1])
    uv = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, t)[:, None, None])
    frames = torch.randint(256, (t, *size, 3), generator=generator, dtype=torch.uint8)
    return clip_of(frames, uv, torch.rand(t, n, generator=generator) < 0.5)


def placed_clip(t=10) -> Clip:
    """Every pixel's colour tells its column, its row and its frame: (4 u, 4 v, 20 t)."""
    frames = torch.empty(t, 48, 60, 3, dtype=torch.uint8)
    frames[..., 0], frames[..., 1] = 4 * torch.arange(60), 4 * torch.arange(48)[:, None]
    frames[..., 2] = 20 * torch.arange(t)[:, None, None]
    uv = random_clip(3, t, n=12, size=(48, 60)).truth.tracks.uv
    return clip_of(frames, uv)


def dotted_clip(t=8) -> Clip:
    """Black, with a white pixel at every point: one of each row walks to the right, one pixel a frame."""
    row = 5 * torch.arange(6)
    u = 3 * torch.arange(6) + torch.arange(t)[:, None]
    frames = torch.zeros(t, 32, 32, 3, dtype=torch.uint8)
    frames[torch.arange(t)[:, None], row, u] = 255
    return clip_of(frames, torch.stack([u, row.expand(t, 6)], dim=-1).float())


@pytest.fixture
def only_geometry(monkeypatch):
    """Crop, mirror image and time's direction only."""
    monkeypatch.setattr(windows, "with_changed_colors", lambda images, rng: images)
    monkeypatch.setattr(
        windows, "with_occluders", lambda images, uv, rng: (images, torch.zeros(uv.shape[:2], dtype=torch.bool))
    )


@pytest.fixture
def whole_frames(monkeypatch):
    """No crop."""
    monkeypatch.setattr(windows, "random_crop", lambda rng, size: (0, 0, min(size)))


@pytest.fixture
def source(tmp_path) -> ClipSource:
    return ClipSource(random_clip().save(tmp_path / "0.npz"))


@pytest.fixture
def sources(tmp_path) -> list[ClipSource]:
    return [ClipSource(random_clip(seed).save(tmp_path / f"{seed}.npz")) for seed in range(3)]


def windows_of(clip: Clip, tmp_path, **changes) -> TrackWindows:
    return TrackWindows([ClipSource(clip.save(tmp_path / "clip.npz"))], **OPTIONS | changes)


def equal(a: TrackWindow, b: TrackWindow) -> bool:
    parts = zip((*a[:-1], *a.truth), (*b[:-1], *b.truth), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in parts)


def read_at(images: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Bilinear colours (t, n, 3), 0 to 255, at points; the reference is OpenCV's."""
    pairs = zip(images.movedim(1, -1).numpy(), uv.numpy(), strict=True)
    maps = [cv2.remap(image, points[None], None, cv2.INTER_LINEAR) for image, points in pairs]
    return (torch.from_numpy(np.stack(maps))[:, 0] + 1) * 127.5


# Items


def test_item_is_the_same_whenever_asked(sources):
    one, other = TrackWindows(sources, **OPTIONS), TrackWindows(sources, **OPTIONS)
    first = [one[k] for k in range(4)]
    assert all(equal(other[k], first[k]) for k in (3, 1, 2, 0))
    assert all(equal(one[k], first[k]) for k in (2, 0))


def test_items_and_seeds_differ(sources):
    one, other = TrackWindows(sources, **OPTIONS), TrackWindows(sources, **OPTIONS, seed=1)
    assert not equal(one[0], one[1])
    assert not equal(one[0], other[0])


def test_all_clips_are_shown(sources, monkeypatch):
    monkeypatch.setattr(windows, "CACHED_CLIPS", 1)
    dataset, seen = TrackWindows(sources, **OPTIONS), []
    monkeypatch.setattr(dataset, "_load", lambda number: (seen.append(number), dataset._read(number))[1])
    for k in range(20):
        dataset[k]
    assert set(seen) == {0, 1, 2}


@pytest.mark.parametrize("augment", [True, False])
def test_shapes(sources, augment):
    window = TrackWindows(sources, **OPTIONS, augment=augment)[0]
    assert window.frames.shape == (6, 3, 32, 32)
    assert window.queries.shape == (8, 3)
    assert window.start.shape == window.truth.uv.shape == (6, 8, 2)
    assert {part.shape for part in (window.truth.visible, window.truth.mobile, window.truth.valid)} == {(6, 8)}
    assert window.truth.query_frame.shape == (8,)
    assert {part.dtype for part in window[:3]} == {torch.float32}


@pytest.mark.parametrize("augment", [True, False])
def test_queries_are_true_points_that_are_seen(sources, augment):
    dataset, index = TrackWindows(sources, **OPTIONS, augment=augment), torch.arange(8)
    for k in range(10):
        queries, truth = dataset[k].queries, dataset[k].truth
        assert torch.equal(queries[:, 0], truth.query_frame.float())
        assert torch.equal(queries[:, 1:], truth.uv[truth.query_frame, index])
        assert truth.visible[truth.query_frame, index].all()
        assert ((queries[:, 1:] >= -0.5) & (queries[:, 1:] <= 31.5)).all()


def test_queries_are_in_all_frames(source):
    dataset = TrackWindows([source], **OPTIONS)
    assert torch.cat([dataset[k].truth.query_frame for k in range(10)]).unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_points_outside_are_not_visible(sources):
    dataset = TrackWindows(sources, **OPTIONS)
    truths = [dataset[k].truth for k in range(10)]
    uv, visible = (torch.cat([getattr(truth, name) for truth in truths]) for name in ("uv", "visible"))
    outside = ((uv < -0.5) | (uv > 31.5)).any(dim=-1)
    assert outside.any()
    assert not visible[outside].any()


def test_tracks_keep_their_mobility(tmp_path):
    """In the clip, points in the right half are dynamic."""
    clip = placed_clip()
    right = clip.truth.tracks.uv[:1, :, 0] > 30
    uv = clip.truth.tracks.uv[:1].expand(10, -1, -1).clone()
    clip = clip_of(clip.frames, uv)
    clip = replace(clip, truth=Truth(tracks=replace(clip.truth.tracks, mobility=right.float().expand(10, -1).clone())))
    truth = windows_of(clip, tmp_path, size=48, points=12, augment=False)[0].truth
    assert torch.equal(truth.mobile, truth.uv[..., 0] > 30)
    assert truth.mobile.any()


def test_windows_start_anywhere(tmp_path):
    dataset = windows_of(placed_clip(), tmp_path, augment=False)
    starts = {round(float(dataset[k].frames[0, 2, 0, 0] + 1) * 127.5 / 20) for k in range(40)}
    assert starts == {0, 1, 2, 3, 4}


def test_clip_as_long_as_the_window(tmp_path):
    assert len(windows_of(random_clip(t=6), tmp_path)[0].frames) == 6


# Without augmentation


def test_without_augmentation_the_clip_is_shown(tmp_path):
    """A square of the clip's own height, so that nothing is resized."""
    clip = placed_clip()
    dataset = windows_of(clip, tmp_path, size=48, augment=False)
    for k in range(5):
        window = dataset[k]
        first = round(float(window.frames[0, 2, 0, 0] + 1) * 127.5 / 20)
        span = slice(first, first + 6)
        expected = clip.frames[span, :, :48].permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(window.frames, expected)
        tracks = clip.truth.tracks.uv[span]
        nearest = torch.cdist(window.truth.uv[0], tracks[0]).argmin(dim=1)
        torch.testing.assert_close(window.truth.uv, tracks[:, nearest])
        torch.testing.assert_close(window.start, window.queries[:, 1:].expand(6, -1, -1))


# Crop, mirror image, time's direction


def test_crop_by_hand():
    """Twice as large: the border at (10, 4) becomes that at (-0.5, -0.5)."""
    frames = torch.zeros(1, 20, 30, 3, dtype=torch.uint8)
    uv = torch.tensor([[[9.5, 3.5], [10.0, 4.0], [14.0, 9.0], [17.5, 11.5]]])
    images, moved = cropped(frames, uv, crop=(10, 4, 8), size=16)
    assert images.shape == (1, 3, 16, 16)
    assert moved[0].tolist() == [[-0.5, -0.5], [0.5, 0.5], [8.5, 10.5], [15.5, 15.5]]


def test_crop_of_its_own_size_copies(generator):
    frames = torch.randint(256, (2, 20, 30, 3), generator=generator, dtype=torch.uint8)
    images, _ = cropped(frames, torch.zeros(2, 1, 2), crop=(7, 3, 12), size=12)
    torch.testing.assert_close((images + 1) * 127.5, frames[:, 3:15, 7:19].permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("size", [10, 15])
def test_crop_shrinks_as_opencv_averages(generator, size):
    """Up to the filter: area against antialiased bilinear, on a smooth image."""
    noise = torch.randint(256, (30, 30, 3), generator=generator, dtype=torch.uint8).numpy()
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    images, _ = cropped(torch.from_numpy(smooth)[None], torch.zeros(1, 1, 2), crop=(0, 0, 30), size=size)
    expected = cv2.resize(smooth, (size, size), interpolation=cv2.INTER_AREA)
    assert np.abs((images[0].permute(1, 2, 0).numpy() + 1) * 127.5 - expected).max() < 4


@pytest.mark.parametrize(("crop", "size"), [((3, 5, 24), 24), ((3, 5, 24), 40), ((0, 2, 30), 20)])
def test_dot_stays_under_its_point(crop, size):
    """The brightness has its centre where the point went."""
    frames = torch.zeros(1, 40, 44, 3, dtype=torch.uint8)
    frames[0, 17, 13] = 255
    images, uv = cropped(frames, torch.tensor([[[13.0, 17.0]]]), crop=crop, size=size)
    light = (images[0, 0] + 1).double()
    v, u = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.stack([(light * u).sum(), (light * v).sum()]) / light.sum()
    torch.testing.assert_close(centre.float(), uv[0, 0], atol=0.1, rtol=0)


@pytest.mark.parametrize("size", [(40, 40), (30, 50), (50, 30)])
def test_random_crops_lie_within(size):
    rng = np.random.default_rng(0)
    crops = np.array([random_crop(rng, size) for _ in range(200)])
    left, top, side = crops.T
    assert (crops[:, :2] >= 0).all()
    assert (left + side <= size[1]).all()
    assert (top + side <= size[0]).all()
    assert side.min() >= round(0.6 * min(size))
    assert side.max() == min(size)


@pytest.mark.usefixtures("only_geometry", "whole_frames")
def test_dots_stay_under_their_points(tmp_path):
    """In mirror images and backward in time too."""
    dataset, steps = windows_of(dotted_clip(), tmp_path, points=6), set()
    for k in range(16):
        images, truth = dataset[k].frames, dataset[k].truth
        u, v = truth.uv.long().unbind(-1)
        seen = truth.visible
        assert torch.equal(truth.uv[seen], torch.stack([u, v], dim=-1)[seen].float())
        frame = torch.arange(6)[:, None].expand(6, 6)
        assert (images[frame[seen], :, v[seen], u[seen]] == 1).all()
        assert ((images == 1).sum() == 3 * seen.sum()).all()
        steps |= set((u[1] - u[0]).tolist())
    assert steps == {-1, 1}


@pytest.mark.usefixtures("only_geometry")
def test_points_stay_on_what_they_show(tmp_path):
    """However it is cropped, mirrored and reversed, the colour at a point tells its track's place in the clip."""
    clip = placed_clip()
    dataset, seen_steps, seen_sides = windows_of(clip, tmp_path, size=40), set(), set()
    for k in range(24):
        images, truth = dataset[k].frames, dataset[k].truth
        u, v, t = (read_at(images, truth.uv) / torch.tensor([4, 4, 20])).unbind(-1)
        inside = truth.visible & ((truth.uv > 1) & (truth.uv < 38)).all(dim=-1)
        frame = t.round().long().clamp(0, 9)
        read = torch.stack([u, v], dim=-1)
        off = (read[:, :, None] - clip.truth.tracks.uv[frame]).norm(dim=-1)
        off = torch.where(inside[..., None], off, 0.0).amax(dim=0)  # (point, track), over all frames
        assert (off.amin(dim=1) < 0.2).all()
        sure = inside.sum(dim=0) >= 3
        assert torch.equal(truth.mobile[0, sure], off.argmin(dim=1)[sure] % 2 == 1)
        seen_steps.add(round(float(images[1, 2, 20, 20] - images[0, 2, 20, 20]) * 127.5 / 20))
        seen_sides.add(bool(images[0, 0, 20, 30] > images[0, 0, 20, 10]))
    assert seen_steps == {-1, 1}
    assert seen_sides == {True, False}


@pytest.mark.usefixtures("only_geometry")
def test_visibility_goes_with_the_frames(tmp_path):
    """In the clip, points are visible in its left half: there the colour says so."""
    clip = placed_clip()
    uv = clip.truth.tracks.uv
    dataset, crossed = windows_of(clip_of(clip.frames, uv, uv[..., 0] < 30), tmp_path, size=40), 0
    for k in range(12):
        images, truth = dataset[k].frames, dataset[k].truth
        u = read_at(images, truth.uv)[..., 0] / 4
        sure = ((truth.uv > 1) & (truth.uv < 38)).all(dim=-1) & ((u - 30).abs() > 0.2)
        assert torch.equal(truth.visible[sure], u[sure] < 30)
        crossed += int((truth.visible[0] != truth.visible[-1]).sum())
    assert crossed


# Occluders and colours


def painted(images, uv, seed):
    return with_occluders(images, uv, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(8))
def test_occluders_hide_what_they_paint_over(generator, seed):
    """Every pixel is a point, and no two pixels of the video are alike."""
    images = torch.rand(5, 3, 24, 24, generator=generator) * 2 - 1
    v, u = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    uv = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(5, -1, -1)
    uv = uv + 0.98 * (torch.rand(uv.shape, generator=generator) - 0.5)
    before = images.clone()
    changed, hidden = painted(images, uv, seed)
    assert torch.equal(images, before)
    differs = (changed != before).any(dim=1)
    assert torch.equal(hidden, differs.flatten(1))
    assert torch.equal(changed.movedim(1, -1)[~differs], before.movedim(1, -1)[~differs])


def test_number_of_occluders(generator):
    """None now and then, and most often some."""
    images = torch.rand(4, 3, 32, 32, generator=generator)
    shares = torch.tensor([(painted(images, torch.zeros(4, 1, 2), s)[0] != images).float().mean() for s in range(60)])
    assert 0.2 < (shares == 0).float().mean() < 0.6
    assert shares.max() < 0.35


def test_occluded_points_are_not_visible(tmp_path, monkeypatch):
    def left_half(images, uv, rng):
        return images, uv[..., 0] < 16

    monkeypatch.setattr(windows, "with_occluders", left_half)
    dataset = windows_of(placed_clip(), tmp_path)
    for k in range(6):
        truth = dataset[k].truth
        assert not truth.visible[truth.uv[..., 0] < 16].any()
        assert truth.visible.any()


@pytest.mark.parametrize("seed", range(5))
def test_colors_stay_in_range(generator, seed):
    images = torch.rand(6, 3, 16, 16, generator=generator) * 2 - 1
    changed = with_changed_colors(images, np.random.default_rng(seed))
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.abs().max() <= 1
    assert (changed - images).abs().mean() > 0.01


def test_colors_change_alike_in_all_frames():
    """But for a drift of the brightness, the same for all colours, and a little noise."""
    images = torch.tensor([-0.2, 0.0, 0.2])[:, None, None].expand(6, 3, 32, 32)
    means = with_changed_colors(images, np.random.default_rng(0)).mean(dim=(2, 3))
    steps = means.diff(dim=0)
    torch.testing.assert_close(steps, steps.mean().expand(5, 3), atol=5e-3, rtol=0)


# Positions to begin with


def test_guesses_are_near_and_then_stand_still():
    rng, uv = np.random.default_rng(0), random_clip(n=200).truth.tracks.uv
    guesses = [guessed(uv, 7, rng) for _ in range(20)]
    for guess in guesses:
        assert guess.dtype == torch.float32
        assert torch.equal(guess[7:], guess[6].expand(3, -1, -1))
    off = torch.stack([(guess - uv)[:7].std() for guess in guesses])
    assert 0.1 < off.max() < 3.5
    assert off.min() < 1


def test_guess_changes_no_truth(generator):
    uv = torch.rand(8, 5, 2, generator=generator)
    before = uv.clone()
    guessed(uv, 6, np.random.default_rng(0))
    assert torch.equal(uv, before)


def at_rest(window: TrackWindow) -> bool:
    return torch.equal(window.start, window.queries[:, 1:].expand(len(window.frames), -1, -1))


@pytest.mark.parametrize(("warm", "share"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_share_of_warm_windows(source, warm, share):
    dataset = TrackWindows([source], **OPTIONS, warm=warm)
    found = np.mean([not at_rest(dataset[k]) for k in range(40)])
    assert found == pytest.approx(share, abs=0.2 if warm == 0.5 else 0)


def test_warm_windows_know_the_first_frames(source):
    """Four of six, rounded to even."""
    window = TrackWindows([source], **OPTIONS, warm=1.0)[0]
    assert torch.equal(window.start[4:], window.start[3].expand(2, -1, -1))
    assert (window.start[1:4] != window.start[:3]).any()
    assert (window.start[:4] - window.truth.uv[:4]).norm(dim=-1).median() < 6


# Which points


def test_far_points_are_not_valid(tmp_path):
    """One stands still in the frame; one walks off to the right, two sizes of the frame at last."""
    uv = torch.tensor([[10.0, 10.0], [20.0, 10.0]]).repeat(6, 1, 1)
    uv[:, 1, 0] = torch.tensor([20.0, 40, 60, 63.5, 64.5, -40])
    frames = torch.zeros(6, 32, 32, 3, dtype=torch.uint8)
    truth = windows_of(clip_of(frames, uv), tmp_path, points=2, augment=False)[0].truth
    walker = truth.uv[0, :, 0].argmax()
    assert truth.valid[:, walker].tolist() == [True, True, True, True, False, False]
    assert truth.valid[:, 1 - walker].all()
    assert truth.visible[:, walker].tolist() == [True, False, False, False, False, False]


def test_fewer_tracks_than_points_are_repeated(tmp_path):
    """Each at least once."""
    clip = random_clip(n=3)
    clip = replace(
        clip, truth=Truth(tracks=replace(clip.truth.tracks, visible=torch.ones_like(clip.truth.tracks.visible)))
    )
    window = windows_of(clip, tmp_path, size=40, augment=False)[0]
    assert window.queries.shape == (8, 3)
    assert len(window.truth.uv[0].unique(dim=0)) == 3


def test_enough_tracks_are_not_repeated(source):
    truth = TrackWindows([source], **OPTIONS, augment=False)[0].truth
    assert len(truth.uv[0].unique(dim=0)) == 8


def test_tracks_that_are_never_seen_are_not_asked(tmp_path):
    clip = random_clip()
    visible = torch.zeros(10, 20, dtype=torch.bool)
    visible[:, 4] = True
    inside = torch.full((10, 20, 2), 12.0) + torch.arange(20)[:, None]
    clip = clip_of(clip.frames, inside, visible)
    truth = windows_of(clip, tmp_path, size=40, augment=False)[0].truth
    torch.testing.assert_close(truth.uv, torch.full((6, 8, 2), 16.0))


@pytest.mark.parametrize("augment", [True, False])
def test_every_point_hidden(tmp_path, augment):
    clip = random_clip()
    clip = clip_of(clip.frames, clip.truth.tracks.uv, torch.zeros(10, 20, dtype=torch.bool))
    window = windows_of(clip, tmp_path, augment=augment)[0]
    assert not window.truth.visible.any()
    assert window.queries.isfinite().all()


def test_collate(sources):
    dataset = TrackWindows(sources, **OPTIONS)
    batch = collate([dataset[3], dataset[5]])
    for i, k in enumerate((3, 5)):
        single = TrackWindow(*(part[i] for part in batch[:4]), type(batch.truth)(*(part[i] for part in batch.truth)))
        assert equal(single, dataset[k])


# Sources


@pytest.fixture(scope="module")
def rendered() -> Clip:
    """A box that slides beside one at rest, with complete truth."""
    eye = torch.tensor([[0.2 * t, -6.0, 2.5] for t in range(5)], dtype=torch.float64)
    scene = Scene(
        bodies=(
            body((0.5, 0.4, 0.3), (-1.0, 0.0, 0.5), (0.2, 0.1, 0.05), (0.1, 0.2, 0.3), True),
            body((0.5, 0.6, 0.5), (1.0, 1.0, 0.5), (0, 0, 0), (0, 0, 0), False),
        ),
        room=((-12.0, -12.0, 0.0), (12.0, 12.0, 9.0)),
        floor=Texture("checks"),
        walls=Texture("checks"),
        world_from_cam=look_at(eye, torch.tensor([0.0, 0.0, 0.8]).double().expand_as(eye)),
        intrinsics=pinhole(35 / 32 * 48, 48, 48).double(),
        height=48,
        width=48,
    )
    return render_clip(scene, fps=12, samples=1, n_tracks=40)


@pytest.fixture
def mixed(rendered, tmp_path):
    """A folder of an archive and two MOVi records."""
    rendered.save(tmp_path / "b.npz")
    clips = [rendered, replace(rendered, frames=255 - rendered.frames)]
    write_movi(tmp_path / "a-train.tfrecord-00000-of-00001", clips)
    (tmp_path / "README.md").write_text("Two kinds of clips.")
    return tmp_path


def test_archives_and_records_of_a_folder(mixed, rendered):
    found = clip_sources(mixed)
    assert [(source.path.name, source.index) for source in found] == [
        ("b.npz", None),
        ("a-train.tfrecord-00000-of-00001", 0),
        ("a-train.tfrecord-00000-of-00001", 1),
    ]
    archive, record, other = (source.load() for source in found)
    assert torch.equal(archive.truth.tracks.uv, rendered.truth.tracks.uv)
    assert torch.equal(record.frames, rendered.frames)
    assert torch.equal(other.frames, 255 - rendered.frames)


def test_tracks_of_records(mixed):
    """256, drawn for the record's number: the same at every reading."""
    first, again, other = (ClipSource(mixed / "a-train.tfrecord-00000-of-00001", i).load() for i in (0, 0, 1))
    tracks = first.truth.tracks
    assert tracks.uv.shape == (5, 256, 2)
    assert torch.equal(tracks.uv, again.truth.tracks.uv)
    assert not torch.equal(tracks.query_frame, other.truth.tracks.query_frame)
    assert tracks.visible[tracks.query_frame, torch.arange(256)].all()
    assert set(tracks.mobility.unique().tolist()) == {0.0, 1.0}


def test_windows_of_both(mixed):
    dataset = TrackWindows(clip_sources(str(mixed)), size=32, frames=4, points=16)
    for k in range(6):
        assert dataset[k].frames.shape == (4, 3, 32, 32)
        assert dataset[k].truth.visible.any()


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_folder_without_clips(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "video.mp4").touch()
    with pytest.raises(InputError, match=r"^clips: expected a folder of clip archives \(\.npz\) or MOVi records, but "):
        clip_sources(tmp_path / name)


@pytest.mark.parametrize("truth", [None, Truth()])
def test_clip_without_truth(tmp_path, truth):
    clip = replace(random_clip(), truth=truth)
    source = ClipSource(clip.save(tmp_path / "bare.npz"))
    with pytest.raises(InputError, match=r"^clips: expected clips with true tracks, but .*bare\.npz has no truth$"):
        source.load()


def test_clip_whose_truth_makes_no_tracks(tmp_path):
    clip = replace(random_clip(), truth=Truth(depth=torch.ones(10, 40, 48)))
    source = ClipSource(clip.save(tmp_path / "bare.npz"))
    with pytest.raises(InputError, match=r"bare\.npz"):
        source.load()


def test_clip_shorter_than_the_window(tmp_path):
    dataset = windows_of(random_clip(t=5), tmp_path)
    with pytest.raises(InputError, match=r"^clips: expected 6 frames or more, but .*clip\.npz has 5$"):
        dataset[0]


@pytest.mark.parametrize("kept", [0.5, 0.001])
def test_truncated_record(mixed, kept):
    path = mixed / "a-train.tfrecord-00000-of-00001"
    content = path.read_bytes()
    path.write_bytes(content[: round(kept * len(content))])
    with pytest.raises(InputError, match=r"ends within the \S+ of record") as raised:
        clip_sources(mixed)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_damaged_archive(mixed):
    path = mixed / "b.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged or not a clip archive") as raised:
        TrackWindows(clip_sources(mixed)[:1], size=32, frames=4, points=16)[0]
    assert "\n" not in str(raised.value)


def test_download_that_is_under_way_is_no_source(mixed):
    """As for ``Shards`` of a folder: what is not called a shard is none."""
    (mixed / "b-train.tfrecord-00000-of-00001_.gstmp").write_bytes(b"half a record")
    assert len(clip_sources(mixed)) == 3


# Starts by flow


def test_starts_by_flow_are_the_chain(toy_folder):
    dataset = TrackWindows(clip_sources(toy_folder), size=64, frames=10, points=30, flow_start=True, augment=False)
    clip = sliding_clip(0, frames=10)
    tracks = clip.truth.tracks
    window = dataset[0]
    index = torch.arange(len(tracks.query_frame))
    uv, visible = chain_flow(clip.frames, Queries(tracks.uv[tracks.query_frame, index], tracks.query_frame))
    asked = torch.cat([tracks.query_frame[:, None].float(), tracks.uv[tracks.query_frame, index]], dim=1)
    for point, query in enumerate(window.queries):
        number = int((asked - query).norm(dim=1).argmin())
        torch.testing.assert_close(asked[number], query)
        torch.testing.assert_close(window.start[:, point], uv[:, number])
        assert torch.equal(window.start_visibility[:, point], first_logits(visible[:, number]))
        torch.testing.assert_close(window.truth.uv[:, point], tracks.uv[:, number])


def test_starts_by_flow_are_altered_with_the_clip(toy_folder):
    """Flow is near the truth in most frames: it is so after a crop, in the mirror, and back in time."""
    dataset = TrackWindows(clip_sources(toy_folder), size=48, frames=6, points=40, flow_start=True)
    for number in range(12):
        window = dataset[number]
        at_query = window.start[window.truth.query_frame, torch.arange(40)]
        torch.testing.assert_close(at_query, window.queries[:, 1:], atol=1e-3, rtol=0)
        error = (window.start - window.truth.uv).norm(dim=-1)[window.truth.visible & (window.start_visibility > 0)]
        assert error.median() < 1


def test_query_is_in_the_frame_even_if_nothing_is_seen(tmp_path):
    """Or a training would end there."""
    uv = torch.full((10, 5, 2), 70.0)
    hidden = clip_of(torch.zeros(10, 40, 48, 3, dtype=torch.uint8), uv, torch.zeros(10, 5, dtype=torch.bool))
    hidden.save(tmp_path / "0.npz")
    for flow_start in (False, True):
        dataset = TrackWindows(clip_sources(tmp_path), **OPTIONS, flow_start=flow_start)
        for number in range(4):
            queries = dataset[number].queries[:, 1:]
            assert ((queries >= -0.5) & (queries <= OPTIONS["size"] - 0.5)).all()
