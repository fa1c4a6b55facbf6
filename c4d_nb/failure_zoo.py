"""The failure zoo of epipolar motion masks: the smallest scenes in which each failure shows, with exact flow.

A camera before a wall with relief; the left part of what it sees moves. There are no bodies, no textures and no errors
of flow, unless a case is about them: what fails here is geometry, not measurement.
"""

from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, transform
from c4d_nb.clip import Tracks

SIZE = 96, 128
FOCAL_PX = 140.0
SECOND_FROM_FIRST = pose(
    roma.rotvec_to_rotmat(torch.tensor([0.02, -0.05, 0.01]).double()), torch.tensor([-0.4, 0.05, 0.1]).double()
)
"""Of a camera that walks and turns."""
TRACK_EVERY_PX = 4


@dataclass(frozen=True, eq=False)
class Specimen:
    """Frame 0 and what it knows of others: flow of every edge, what truly moves, and what passes for static."""

    flows: Float[Tensor, "e h w 2"]
    valid: Bool[Tensor, "e h w"]
    ego_flows: Float[Tensor, "e h w 2"]
    """Of the same camera before the same wall, if nothing moved."""
    mask: Bool[Tensor, "h w"]
    static: Bool[Tensor, "h w"]
    """What the tracker calls static."""

    @property
    def edges(self) -> Int[Tensor, "e 2"]:
        return torch.tensor([(0, 1 + i) for i in range(len(self.flows))])

    @property
    def frames(self) -> UInt8[Tensor, "t h w 3"]:
        """The mover is lighter than the wall."""
        shade = torch.where(self.mask, 200, 90).to(torch.uint8)
        return shade[None, ..., None].expand(1 + len(self.flows), -1, -1, 3)

    def tracks(self, static: Bool[Tensor, "h w"] | None = None) -> Tracks:
        """A grid of points of frame 0, called static where ``static`` is (the specimen's own by default)."""
        uv = pixel_grid(*self.mask.shape)[::TRACK_EVERY_PX, ::TRACK_EVERY_PX].reshape(-1, 2)
        column, row = uv.long().unbind(-1)
        shape = 1 + len(self.flows), len(uv)
        mobility = (~(self.static if static is None else static)[row, column]).float().expand(shape)
        query_frame = torch.zeros(len(uv), dtype=torch.long)
        return Tracks(uv.expand(*shape, 2), torch.ones(shape).bool(), torch.ones(shape), mobility, query_frame)


def mover_over_most_of_the_frame() -> Specimen:
    """70 % of the image falls; the tracker knows it."""
    return _specimen([(0.0, 0.4, 0.0)], share=0.7)


def along_the_epipolar_line() -> Specimen:
    """30 % moves as the camera does: to any F that is depth, not motion."""
    return _specimen([_along_the_camera(0.3)], share=0.3)


def pure_rotation(*, noise_px: float = 0.05) -> Specimen:
    """The camera only turns, a twelfth of the points that pass for static are the mover's, flow is a little noisy."""
    turn = pose(SECOND_FROM_FIRST[:3, :3], torch.zeros(3).double())
    found = _specimen([(0.0, 0.4, 0.0)], share=0.3, second_from_first=turn)
    noise = noise_px * torch.randn(found.flows.shape, generator=torch.Generator().manual_seed(0))
    mislabelled = pixel_grid(*SIZE)[..., 0] < SIZE[1] / 16
    return Specimen(found.flows + noise, found.valid, found.ego_flows, found.mask, found.static | mislabelled)


def foot_at_rest() -> Specimen:
    """Two pairs: in the first the mover rests, in the second it has stepped on."""
    return _specimen([(0.0, 0.0, 0.0), (0.0, 0.4, 0.0)], share=0.3)


def wrong_flow() -> Specimen:
    """Nothing moves, but flow is wrong in one corner; its forward-backward check knows."""
    found = _specimen([(0.0, 0.0, 0.0)], share=0.0)
    corner = (pixel_grid(*SIZE) > torch.tensor([90.0, 60.0])).all(dim=-1)
    flows = torch.where(corner[..., None], found.flows + torch.tensor([7.0, 9.0]), found.flows)
    return Specimen(flows, found.valid & ~corner, found.ego_flows, found.mask, found.static)


def _along_the_camera(length: float) -> tuple[float, float, float]:
    step = invert(SECOND_FROM_FIRST)[:3, 3]
    return tuple((length * step / step.norm()).tolist())


def _specimen(
    moved: list[tuple[float, float, float]], *, share: float, second_from_first: Tensor = SECOND_FROM_FIRST
) -> Specimen:
    """The left ``share`` of the points has ``moved`` (in the first camera's frame) by so much in each pair."""
    K = pinhole(FOCAL_PX, *SIZE).double()
    uv = pixel_grid(*SIZE).double()
    depth = 5 + 1.5 * torch.sin(uv[..., 0] / 9) * torch.cos(uv[..., 1] / 7)
    wall = depth[..., None] * torch.cat([(uv - K[:2, 2]) / K[0, 0], torch.ones(*SIZE, 1)], dim=-1)
    mask = uv[..., 0] < share * SIZE[1]

    def flow_to(xyz: Tensor) -> Tensor:
        seen, _ = project(transform(second_from_first, xyz.reshape(-1, 3)), K)
        return (seen.reshape(uv.shape) - uv).float()

    flows = torch.stack([flow_to(torch.where(mask[..., None], wall + wall.new_tensor(step), wall)) for step in moved])
    ego_flows = flow_to(wall).expand_as(flows)
    return Specimen(flows, torch.ones(flows.shape[:3]).bool(), ego_flows, mask, ~mask)
