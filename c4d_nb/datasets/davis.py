"""DAVIS 2016 and 2017 (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv 1704.00675): video and objects' masks.

The layout of both releases, whose zip files unpack into ``DAVIS``::

    JPEGImages/480p/NAME/00000.jpg       frames
    Annotations/480p/NAME/00000.png      2016: 0 or 255; 2017: a palette image, object i has index i
    ImageSets/480p/val.txt               2016: lines of "/JPEGImages/480p/NAME/00000.jpg /Annotations/...png"
    ImageSets/2017/val.txt               2017: a name a line

Licence: CC BY 4.0 (2016); for 2017 see its page. Pages: https://davischallenge.org/davis2016/code.html, https://davischallenge.org/davis2017/code.html
"""

from pathlib import Path

import numpy as np
from PIL import Image

from c4d_nb.clip import Clip, Truth, check_selection, resize_clip
from c4d_nb.datasets.layout import chosen, matching, numbered, readable_file, required, stacked
from c4d_nb.errors import InputError
from c4d_nb.video import read_image

FPS = 24.0
VOID = 255
PAGES = {year: f"https://davischallenge.org/davis{year}/code.html" for year in (2016, 2017)}


def read_davis(
    root: str | Path,
    name: str,
    *,
    resolution: str = "480p",
    start: int = 0,
    stride: int = 1,
    max_frames: int | None = None,
    long_side: int | None = None,
) -> Clip:
    """A sequence with its annotation: ``truth.segmentation`` (0 is background, i is object i) and ``motion_mask``.

    Of a palette image the index is the object's number and 255 is void, taken for background; in any other image all
    that is not black is object 1, as in DAVIS 2016. Frames and masks are paired by name. DAVIS annotates the objects of
    interest, which move; other things may move too. ``root`` is the folder with ``JPEGImages``.
    """
    check_selection(start, stride, max_frames, long_side)
    root = Path(root)
    page = f"{PAGES[2016]} and {PAGES[2017]}"
    images = required(root / "JPEGImages" / resolution / name, f"frames of DAVIS' sequence {name}", page)
    masks = required(root / "Annotations" / resolution / name, f"masks of DAVIS' sequence {name}", page)
    frames = numbered(images, (".jpg", ".jpeg", ".png"), "frames of DAVIS")
    names = chosen(list(frames), images, start, stride, max_frames)
    video = stacked([frames[stem] for stem in names], read_image)
    files = matching(numbered(masks, (".png",), "masks of DAVIS"), names, masks, "a mask")
    segmentation = stacked(files, _read_objects, tuple(video.shape[1:3]))
    truth = Truth(segmentation=segmentation, motion_mask=segmentation > 0)
    return resize_clip(Clip(video, FPS / stride, truth=truth), long_side)


def davis_sequences(root: str | Path, *, year: int = 2016, split: str = "val") -> list[str]:
    """The names of a split, ``train`` or ``val``, in its list's order."""
    if year not in PAGES:
        raise InputError(f"year: expected 2016 or 2017, but it is {year}")
    file = Path(root) / "ImageSets" / ("480p" if year == 2016 else "2017") / f"{split}.txt"
    with readable_file(required(file, f"the split {split} of DAVIS {year}", PAGES[year]), "a list of sequences"):
        words = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    names = [Path(word).parent.name for word in words] if year == 2016 else words
    if not all(names):
        raise InputError(f"path: expected lines of /JPEGImages/480p/NAME/00000.jpg, but {file} has others")
    return list(dict.fromkeys(names))


def _read_objects(file: Path) -> np.ndarray:
    with readable_file(file, "a mask"), Image.open(file) as image:
        values = np.array(image)
        if image.mode == "P":
            return np.where(values == VOID, 0, values).astype(np.int64)
    return (values.reshape(*values.shape[:2], -1)[..., :3] > 0).any(axis=-1).astype(np.int64)
