"""The published numbers of Kubric's MOVi-E, panning MOVi-E and MOVi-F workers; lengths in metres."""

from dataclasses import dataclass

from c4d_nb.kubric.scene import Vector

Region = tuple[Vector, Vector]
"""Lowest and highest corner."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class MoviRanges:
    """What is drawn uniformly from where; the defaults are MOVi-E's."""

    resting: tuple[int, int] = (10, 20)
    """How many bodies lie on the floor at first."""
    tossed: tuple[int, int] = (1, 3)
    size_m: Interval = (0.75, 3.0)
    """The largest side of a body."""
    resting_region: Region = ((-7.0, -7.0, 0.0), (7.0, 7.0, 10.0))
    """Where bodies are dropped before the clip, to settle."""
    tossed_region: Region = ((-5.0, -5.0, 1.0), (5.0, 5.0, 5.0))
    toss_m_s: float = 4.0
    """A tossed body's velocity is U(-4, 4) in x and in y, minus its own (x, y) in metres: towards the middle."""
    camera_radius_m: Interval = (8.0, 12.0)
    """The half shell about the origin in which a camera path starts and ends."""
    camera_travel_m: Interval = (0.0, 4.0)
    """Length of the camera's straight path."""
    look_at_radius_m: Interval | None = None
    """A camera that pans looks along a line from the half ball of the second radius through that of the first and up
    to half as far again; any other looks at the origin."""
    motion_blur: Interval = (0.0, 0.0)
    """Frames during which the shutter is open."""
    fps: float = 12.0
    focal: float = 35 / 32
    """Focal length over image width: 35 mm before a sensor of 32 mm."""


SPLITS = {
    "movi_e": MoviRanges(),
    "panning_movi_e": MoviRanges(camera_travel_m=(0.0, 8.0), look_at_radius_m=(1.0, 4.0)),
    "movi_f": MoviRanges(motion_blur=(0.0, 2.0)),
}
SUBSETS = ("train", "validation")
CASES = ("static", "hit", "epipolar", "large_mover", "pure_rotation", "still_camera")
"""What a scene can be forced to show: nothing moves but the camera (for training on static scenes); a resting body is
hit by another; a body moves along its epipolar lines; one covers over half of every frame; the camera only turns; the
camera stands."""
