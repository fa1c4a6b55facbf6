"""The result: 4D from a video, in one file."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.archive import conforming, group, read_archive, readable, write_archive
from c4d_nb.clip import Clip, Tracks, clip_entries, clip_from_entries, field_entries


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """4D from a video: everything is in one world frame, up to one scale."""

    depth: Float[Tensor, "t h w"]
    confidence: Float[Tensor, "t h w"]
    """At least 1; 1 is 'this depth is a guess'. Combine with a threshold to show or export only what was measured."""
    intrinsics: Float[Tensor, "t 3 3"]
    world_from_cam: Float[Tensor, "t 4 4"]
    motion_mask: Bool[Tensor, "t h w"]
    tracks: Tracks
    tracks_xyz: Float[Tensor, "t n 3"]
    """World positions of the tracks; NaN where a track is not visible."""
    losses: dict[str, Float[Tensor, "i"]]
    """Each objective's value by iteration: ga, cma, cts (stage 1), pts (stage 2)."""
    clip: Clip

    def save(self, path: str | Path) -> Path:
        """Write everything, clip included, to one archive, atomically."""
        maps = ("depth", "confidence", "intrinsics", "world_from_cam", "motion_mask", "tracks_xyz")
        entries = {name: getattr(self, name) for name in maps}
        entries |= field_entries("tracks", self.tracks)
        entries |= {f"losses.{name}": values for name, values in self.losses.items()}
        entries |= {f"clip.{name}": value for name, value in clip_entries(self.clip).items()}
        return write_archive(path, "reconstruction", entries)

    @staticmethod
    def load(path: str | Path) -> "Reconstruction":
        """Read a saved reconstruction; raises ``InputError`` for a damaged or foreign file."""
        with readable(path, "reconstruction"):
            entries = read_archive(path, "reconstruction")
            maps = {name: value for name, value in entries.items() if "." not in name}
            clip = {name.removeprefix("clip."): value for name, value in entries.items() if name.startswith("clip.")}
            tracks = Tracks(**group(entries, "tracks"))
            losses, clip = group(entries, "losses"), clip_from_entries(clip)
            return conforming(Reconstruction(**maps, tracks=tracks, losses=losses, clip=clip))
