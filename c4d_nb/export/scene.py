"""What is exported: the cameras of the original pixels, and the points that pixels of depth make. All in float64."""

from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from c4d_nb.camera import invert, pose, rays
from c4d_nb.clip import check_intrinsics
from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.viewer import flying_pixels, shown_confidence


@dataclass(frozen=True, eq=False)
class Cameras:
    """One a frame, for the original pixels of the video."""

    intrinsics: Float[Tensor, "t 3 3"]
    world_from_cam: Float[Tensor, "t 4 4"]
    height: int
    width: int

    @property
    def cam_from_world(self) -> Float[Tensor, "t 4 4"]:
        return invert(self.world_from_cam)

    def project(self, frame: Int[Tensor, "n"], xyz_world: Float[Tensor, "n 3"]) -> Float[Tensor, "n 2"]:
        """Where the camera of ``frame`` sees each point, in original pixels; NaN behind it."""
        cam_from_world = self.cam_from_world[frame]
        xyz_cam = (cam_from_world[:, :3, :3] @ xyz_world[..., None])[..., 0] + cam_from_world[:, :3, 3]
        uv = (self.intrinsics[frame] @ xyz_cam[..., None])[..., :2, 0] / xyz_cam[:, 2:]
        return torch.where(xyz_cam[:, 2:] > 0, uv, torch.nan)


@dataclass(frozen=True, eq=False)
class Points:
    """Points in the world, each with the frame and the original pixel that it comes from, in order of frames."""

    frame: Int[Tensor, "n"]
    uv: Float[Tensor, "n 2"]
    xyz_world: Float[Tensor, "n 3"]
    color: UInt8[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: Int[Tensor, "m"]) -> "Points":
        return Points(self.frame[index], self.uv[index], self.xyz_world[index], self.color[index])


def original_cameras(result: Reconstruction) -> Cameras:
    """Raises ``InputError`` for cameras that are none: not finite, no rotation, no focal length, or too many."""
    original, t = result.clip.original, len(result.clip)
    if len(result.world_from_cam) != t or len(result.intrinsics) != t:
        raise InputError(
            f"result: expected a camera for each of {t} frames, but world_from_cam is "
            f"{tuple(result.world_from_cam.shape)} and intrinsics is {tuple(result.intrinsics.shape)}"
        )
    world_from_cam = result.world_from_cam.detach().double().cpu()
    if not world_from_cam.isfinite().all():
        raise InputError("result: expected finite poses, but world_from_cam has NaN or infinity")
    rotation = roma.special_procrustes(world_from_cam[:, :3, :3])
    if (rotation - world_from_cam[:, :3, :3]).abs().max() > 1e-3:
        raise InputError("result: expected rigid poses, but world_from_cam has one whose upper left 3x3 is no rotation")
    return Cameras(
        intrinsics=original.intrinsics_to_original(check_intrinsics(result.intrinsics.detach().double().cpu())),
        world_from_cam=pose(rotation, world_from_cam[:, :3, 3]),
        height=original.original_height,
        width=original.original_width,
    )


def scene_points(
    result: Reconstruction, frame: int | None = None, *, min_confidence: float | None, max_points: int
) -> Points:
    """Those of all frames that do not move; of one ``frame``, ``frame_points``. Raises ``InputError`` for none."""
    check_maps(result)
    if frame is None:
        threshold = shown_confidence(result) if min_confidence is None else min_confidence
        points = _points(result, ~result.motion_mask & (result.confidence > threshold), max_points)
    else:
        points = frame_points(result, frame, min_confidence=min_confidence, max_points=max_points)
    if not len(points):
        which, least = "static pixels" if frame is None else f"pixels of frame {frame}", min_confidence or 0
        raise InputError(
            f"result: expected {which} with finite positive depth of a confidence above {least:g}, but there are none"
        )
    return points


def frame_points(result: Reconstruction, frame: int, *, min_confidence: float | None, max_points: int) -> Points:
    """Those of one frame, whether they move or not; without a threshold its dynamic ones are never left out."""
    if not 0 <= frame < len(result.clip):
        raise InputError(f"frame: expected 0 to {len(result.clip) - 1}, but it is {frame}")
    check_maps(result)
    one = slice(frame, frame + 1)
    threshold = shown_confidence(result) if min_confidence is None else min_confidence
    wanted = result.confidence[one] > threshold
    if min_confidence is None:
        wanted = wanted | result.motion_mask[one]
    return _points(result, wanted, max_points, frame)


def check_maps(result: Reconstruction) -> None:
    """Raises ``InputError`` for depth, confidence or masks that are not those of the clip's pixels."""
    shape = tuple(result.clip.frames.shape[:3])
    for name in ("depth", "confidence", "motion_mask"):
        if tuple(getattr(result, name).shape) != shape:
            raise InputError(
                f"result: expected {name} of the clip's shape {shape}, but it is {tuple(getattr(result, name).shape)}"
            )


def _points(result: Reconstruction, wanted: Bool[Tensor, "k h w"], max_points: int, first: int = 0) -> Points:
    """``wanted`` are pixels of the frames from ``first`` on."""
    if max_points < 1:
        raise InputError(f"max_points: expected 1 or more, but it is {max_points}")
    depth = result.depth.detach()[first : first + len(wanted)]
    solid = wanted & torch.isfinite(depth) & (depth > 0) & ~flying_pixels(depth)
    index = solid.flatten().nonzero()[:, 0].cpu()
    if len(index) > max_points:
        index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:max_points].sort().values]
    height, width = depth.shape[1:]
    frame = first + index // (height * width)
    uv = torch.stack([index % width, index // width % height], dim=-1).double()
    world_from_cam = original_cameras(result).world_from_cam[frame]
    ray = rays(result.intrinsics.detach().double().cpu()[frame], uv)
    xyz_cam = depth.flatten().cpu()[index].double()[:, None] * ray
    xyz_world = (world_from_cam[:, :3, :3] @ xyz_cam[..., None])[..., 0] + world_from_cam[:, :3, 3]
    color = result.clip.frames[first : first + len(wanted)].reshape(-1, 3).cpu()[index]
    return Points(frame, result.clip.original.uv_to_original(uv), xyz_world, color)
