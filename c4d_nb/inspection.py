"""Signs of trouble that raise no error: cuts, blur, a camera that only turns, a scene in which all moves.

None of them is certain; each is a number to look at, frame by frame, and most can be seen before a reconstruction.
"""

from dataclasses import dataclass

import cv2
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from c4d_nb.correspondence.flow import estimate_flows
from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction

CUT = 0.3
"""A step between frames is taken for a cut if less finds its match: across cuts between the shipped clips (128 px) 3 to
26 % do, within each of them never less than 86 %."""
BLURRED = 0.5
"""Of the sharpness of its neighbours: a frame below it is taken for blurred."""
NEIGHBOURS = 4
"""Frames before and after that a frame's sharpness is compared with."""


@dataclass(frozen=True, eq=False)
class VideoSigns:
    """What a video says of itself before it is reconstructed."""

    matched: Float[Tensor, "s"]
    """Share of each frame's pixels whose flow to the next frame survives its forward-backward check."""
    moved_px: Float[Tensor, "s"]
    """Median length of that flow."""
    sharpness: Float[Tensor, "t"]
    """Variance of the Laplacian over the median of the frames around; 1 is as sharp as they are."""

    @property
    def cuts(self) -> list[int]:
        """Frames with which a new shot begins."""
        return ((self.matched < CUT).nonzero()[:, 0] + 1).tolist()

    @property
    def blurred(self) -> list[int]:
        return (self.sharpness < BLURRED).nonzero()[:, 0].tolist()


@dataclass(frozen=True, eq=False)
class ResultSigns:
    """What a reconstruction says of itself, as shares of each frame."""

    measured: Float[Tensor, "t"]
    """Pixels whose depth was measured (confidence above 2), not guessed."""
    dynamic: Float[Tensor, "t"]
    """Pixels inside the motion mask."""
    static_tracks: Int[Tensor, "t"]
    """Visible tracks that are called static: they hold the cameras."""


def video_signs(frames: UInt8[Tensor, "t h w 3"]) -> VideoSigns:
    """Signs of cuts and of blur. Raises ``InputError`` for fewer than 2 frames."""
    if len(frames) < 2:
        raise InputError(f"frames: expected at least 2, but there are {len(frames)}")
    steps = torch.stack([torch.arange(len(frames) - 1), torch.arange(1, len(frames))], dim=1)
    flows, valid = estimate_flows(frames, torch.cat([steps, steps.flip(1)]), progress=False)
    ahead = slice(len(steps))
    return VideoSigns(
        matched=valid[ahead].float().mean(dim=(1, 2)),
        moved_px=flows[ahead].norm(dim=-1).flatten(1).median(dim=1).values,
        sharpness=_sharpness(frames),
    )


def result_signs(result: Reconstruction) -> ResultSigns:
    """Signs of a camera that only turned, and of a scene in which all moves."""
    static = result.tracks.visible & (result.tracks.mobility < 0.5)
    return ResultSigns(
        measured=(result.confidence > 2).float().mean(dim=(1, 2)),
        dynamic=result.motion_mask.float().mean(dim=(1, 2)),
        static_tracks=static.sum(dim=1),
    )


def _sharpness(frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "t"]:
    gray = [cv2.cvtColor(frame.cpu().numpy(), cv2.COLOR_RGB2GRAY) for frame in frames]
    energy = torch.tensor([float(cv2.Laplacian(image, cv2.CV_32F).var()) for image in gray])
    around = [energy[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1].median() for i in range(len(energy))]
    return energy / torch.stack(around).clamp(min=1e-6)
