"""Point tracks of a clip with known geometry: queries as TAP-Vid draws them, points that ride on what they show."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.camera import project, rays, transform
from c4d_nb.clip import Tracks, Truth
from c4d_nb.correspondence.queries import Queries, check_queries
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.mobility import with_background
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.truth import object_poses, sample_positions

GRID_STRIDE = 4
"""TAP-Vid's candidates are every fourth frame, row and column."""
MAX_SHARE = 0.1
"""The part of a segment's candidates that TAP-Vid takes at most."""
DEPTH_MARGIN = 0.99
"""TAP-Vid: a surface nearer than this part of a point's depth hides it."""
VISIBLE_TOLERANCE = 1e-4
"""Share of its depth by which a point may lie off the first hit of its ray and still count as visible."""


def sample_tapvid_queries(truth: Truth, *, n_queries: int = 256, generator: torch.Generator) -> Queries:
    """Random query points as TAP-Vid draws them on Kubric, in order of frame, row and column.

    Candidates are every fourth frame, row and column from a random start. The points are spread evenly over the
    segments, the rarest first, and a segment gives at most a tenth of its candidates; what it cannot give the larger
    ones do. Within a segment the draw is uniform and without replacement (TAP-Vid's is with). A clip that has too few
    candidates is sampled at every second, then every single pixel, at last without the limit of a tenth.

    ``uv`` is where the truth's maps were sampled: the pixel's centre plus ``sample_offset_px``. So a track passes
    through its query. Raises ``InputError`` for more queries than the clip has pixels.
    """
    _check_truth(truth, "depth", "segmentation")
    pixels = truth.segmentation.numel()
    if not 0 < n_queries <= pixels:
        raise InputError(f"n_queries: expected 1 to {pixels}, the pixels of the clip, but it is {n_queries}")
    for stride in (GRID_STRIDE, GRID_STRIDE // 2, 1):
        candidates = _grid(truth.segmentation, stride, generator)
        segments = truth.segmentation[candidates.unbind(-1)].long()
        counts = segments.bincount()
        limits = (MAX_SHARE * counts).round().long()
        if limits.sum() >= n_queries:
            break
    else:
        limits = counts
    chosen = []
    for segment, share in enumerate(_spread(limits, n_queries)):
        own = (segments == segment).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=generator)[:share]])
    frame, row, column = candidates[torch.cat(chosen).sort().values].unbind(-1)
    return Queries(uv=sample_positions(truth)[row, column].float(), frame=frame)


def point_tracks(truth: Truth, queries: Queries, *, scene: Scene | None = None) -> Tracks:
    """True tracks: each point rides on the body, or the background, that its query shows, and is seen by true cameras.

    With the ``scene`` that the clip was rendered from, a ray through the query finds its point, and a ray to the point
    says in every frame whether anything hides it: both are exact. Without it, the point is the one that the nearest
    pixel of the maps shows, so that the track passes up to half a pixel beside a query that lies between the samples
    (``sample_offset_px``; on a pixel's centre, by that offset), and TAP-Vid's rule says what is visible: a point is
    hidden when it is behind the camera or outside the image, when all four pixels around it are nearer than 0.99 of
    its depth, or when all four show other segments. TAP-Vid's test for surfaces that face away is left out, for it
    needs normals. The rule errs by taking hidden points for visible: at outlines, and where they have just turned away.

    A point is visible in its query frame. Behind a camera its uv is finite but without meaning. Mobility is that of
    its object (``truth.mobility``) in all frames; confidence is 1.
    """
    _check_truth(truth, "depth", "segmentation", "world_from_cam", "intrinsics", "positions", "quaternions", "mobility")
    check_queries(queries, len(truth.depth), tuple(truth.depth.shape[1:]))
    if scene is not None and (len(scene), scene.height, scene.width) != tuple(truth.depth.shape):
        raise InputError(
            f"scene: expected that of the clip, {tuple(truth.depth.shape)}, but it renders "
            f"{(len(scene), scene.height, scene.width)}"
        )
    uv, depth, segment = _trajectories(truth, queries, scene)
    height, width = truth.depth.shape[1:]
    visible = (depth > 0) & ((uv >= -0.5) & (uv <= uv.new_tensor([width - 0.5, height - 0.5]))).all(dim=-1)
    visible &= _shown_by_maps(truth, uv, depth, segment) if scene is None else _hit_by_rays(scene, uv, depth, visible)
    visible[queries.frame, torch.arange(len(segment))] = True
    mobility = with_background(truth.mobility)[segment].float().expand(visible.shape).clone()
    return Tracks(uv.float(), visible, torch.ones_like(mobility), mobility, queries.frame)


def _grid(segmentation: Tensor, stride: int, generator: torch.Generator) -> Int[Tensor, "c 3"]:
    """(frame, row, column) of every ``stride``-th pixel from a random start, in that order."""
    starts = [int(torch.randint(min(stride, size), (), generator=generator)) for size in segmentation.shape]
    axes = [torch.arange(start, size, stride) for start, size in zip(starts, segmentation.shape, strict=True)]
    return torch.cartesian_prod(*axes)


def _spread(limits: Int[Tensor, "segments"], total: int) -> list[int]:
    """Even shares of ``total``, none above its limit; ``total`` is reached if the limits together allow it."""
    shares = [0] * len(limits)
    for rank, segment in enumerate(limits.argsort(stable=True).tolist()):
        even = (total - sum(shares)) // (len(limits) - rank)
        shares[segment] = min(even, int(limits[segment]))
    return shares


def _trajectories(
    truth: Truth, queries: Queries, scene: Scene | None
) -> tuple[Float[Tensor, "t n 2"], Float[Tensor, "t n"], Int[Tensor, "n"]]:
    """(uv, z-depth, segment) of the queries' points in every frame, in float64."""
    uv, depth, segment = _shown(truth, queries) if scene is None else _cast(scene, queries)
    source = truth if scene is None else scene
    world_from_cam = source.world_from_cam.double()
    intrinsics = source.intrinsics.double().expand(len(world_from_cam), 3, 3)
    # True inverses: poses stored in float32 are rigid to 1e-7 only, and a transpose would miss the query by 1e-5 px.
    cam_from_obj = torch.linalg.inv(world_from_cam)[:, None] @ object_poses(source)[segment].transpose(0, 1)
    obj_from_cam = torch.linalg.inv(cam_from_obj[queries.frame, torch.arange(len(segment))])
    xyz_cam = depth[:, None] * rays(intrinsics[queries.frame], uv)
    xyz_obj = transform(obj_from_cam, xyz_cam[:, None])
    return *project(transform(cam_from_obj, xyz_obj)[..., 0, :], intrinsics), segment


def _shown(truth: Truth, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
    """(uv, z-depth, segment) of the map sample nearest to each query."""
    height, width = truth.depth.shape[1:]
    offset = sample_positions(truth)[0, 0]
    column, row = (queries.uv.double() - offset).round().long().unbind(-1)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    at = queries.frame, row, column
    return sample_positions(truth)[row, column], truth.depth[at].double(), truth.segmentation[at].long()


def _cast(scene: Scene, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
    """(uv, z-depth, segment) of what the ray through each query hits."""
    uv = queries.uv.double()
    depth, segment = uv.new_empty(len(uv)), torch.empty(len(uv), dtype=torch.long)
    for frame in queries.frame.unique().tolist():
        asked = queries.frame == frame
        depth[asked], segment[asked] = cast(scene, frame, uv[asked])
    return uv, depth, segment


def _shown_by_maps(truth: Truth, uv: Tensor, depth: Tensor, segment: Tensor) -> Bool[Tensor, "t n"]:
    """TAP-Vid's rule: one of the four samples around a point is not nearer than it, and one is of its segment."""
    height, width = truth.depth.shape[1:]
    low = (uv - sample_positions(truth)[0, 0]).floor()
    column, row = (low[..., None] + uv.new_tensor([[0, 1, 0, 1], [0, 0, 1, 1]])).unbind(dim=-2)
    frame = torch.arange(len(uv))[:, None, None]
    around = frame, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
    shows_depth = truth.depth[around].amax(dim=-1) >= DEPTH_MARGIN * depth
    return shows_depth & (truth.segmentation[around] == segment[:, None]).any(dim=-1)


def _hit_by_rays(scene: Scene, uv: Tensor, depth: Tensor, inside: Tensor) -> Bool[Tensor, "t n"]:
    """Whether the first thing on a point's ray is the point; False where it is not ``inside`` the image."""
    hit = torch.zeros_like(inside)
    for frame, asked in enumerate(inside):
        first, expected = cast(scene, frame, uv[frame, asked])[0], depth[frame, asked]
        hit[frame, asked] = (first - expected).abs() <= VISIBLE_TOLERANCE * expected
    return hit


def _check_truth(truth: Truth, *names: str) -> None:
    if missing := [name for name in names if getattr(truth, name) is None]:
        raise InputError(f"truth: expected {', '.join(names)}, but it has no {', no '.join(missing)}")
