"""Training of DynPT on clips with true tracks (C4D, supplement: AdamW, OneCycle, 50,000 steps of 32 windows).

``python -m c4d_nb.correspondence.training CLIPS --out DIR`` on one CPU or GPU, ``accelerate launch -m
c4d_nb.correspondence.training ...`` on many. The same command goes on where an interrupted one was. Needs the extra
``weights``.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from c4d_nb.checkpoints import find_weights, licence_of, load_dust3r
from c4d_nb.commands import run_command
from c4d_nb.correspondence.dynpt import PAPER, SMALL, DynPT, DynPTConfig, TrackState
from c4d_nb.correspondence.encoders import ENCODERS
from c4d_nb.correspondence.losses import since_query, track_losses
from c4d_nb.correspondence.weights import SHIPPED, fingerprint, load_dynpt, save_dynpt
from c4d_nb.correspondence.windows import ClipSource, TrackWindow, TrackWindows, clip_sources, collate
from c4d_nb.errors import InputError
from c4d_nb.metrics import dynamic_accuracy, tap_vid
from c4d_nb.training import OWN_LICENCE, Recipe, accelerator_for, add_recipe_options, fit, recipe_options

VALIDATION_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """The recipe; by default for a CPU, as the weights that ship began (``make tracker-weights`` has the rest).
    ``PAPER_RECIPE`` is the paper's."""

    network: DynPTConfig = SMALL
    steps: int = 4000
    batch_size: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: float = 10.0
    window: int = 16
    """Frames."""
    points: int = 64
    """Of a window."""
    validation_windows: int = 24


PAPER_RECIPE = TrainConfig(network=PAPER, steps=50_000, batch_size=32, learning_rate=5e-4, points=256)
PRESETS = {"small": TrainConfig(), "paper": PAPER_RECIPE}


def train(
    clips: list[ClipSource],
    out: str | Path,
    *,
    config: TrainConfig = TrainConfig(),
    geometry: str | Path | None = None,
    start: str | Path | None = None,
    validation: list[ClipSource] = [],  # noqa: B006 never written to
) -> DynPT:
    """Train on ``clips`` and leave ``model.safetensors`` with a picture and a record of the losses in ``out``.

    ``geometry``: name or path of the pointmap network whose frozen encoder is the 3D-aware one; by default that of
    ``start``, or of ``small``. ``start`` are weights to begin with. If ``out`` holds a checkpoint of the same recipe,
    training goes on there. ``validation`` clips are only looked at. Raises ``InputError`` for clips without tracks or
    a checkpoint of another recipe.
    """
    accelerator = accelerator_for(config)
    network, licence = _begin(config, geometry, start)
    watched = _fixed_windows(validation, config)

    def losses(model: nn.Module, batch: TrackWindow) -> dict[str, Tensor]:
        with accelerator.autocast():
            states = model(batch.frames, batch.queries, _starting(batch))
        found = track_losses([TrackState(*(part.float() for part in state)) for state in states], batch.truth)
        return {"loss": found.total()} | found._asdict()

    fit(
        accelerator,
        config,
        out,
        model=network,
        dataset=_windows(clips, config, seed=config.seed),
        collate=collate,
        losses=losses,
        validate=(lambda model: window_scores(model, watched)) if watched else None,
        save_weights=lambda path: save_dynpt(network, path, dtype=torch.float16, licence=licence),
        note="" if network.geometry is None else f"geometry {fingerprint(network.geometry)}",
    )
    return network


def window_scores(model: DynPT, windows: list[TrackWindow]) -> dict[str, float]:
    """Accuracy of mobility, position and visibility over whole windows, a mean over them; px as in TAP-Vid."""
    device = next(model.parameters()).device
    rows = []
    for batch in windows:
        window = collate([batch])
        state = model(window.frames.to(device), window.queries.to(device), _starting(window, device))[-1]
        uv, visibility, _, mobility = (part[0].float().cpu() for part in state)
        truth, size = batch.truth, tuple(batch.frames.shape[-2:])
        tracks = {"uv_true": truth.uv, "visible_true": truth.visible, "query_frame": truth.query_frame}
        scores = tap_vid(uv, visibility > 0, **tracks, mode="strided", size=size)
        counted = truth.valid & since_query(truth.query_frame[None], frames=len(uv))[0]
        mobile = dynamic_accuracy(mobility[counted] > 0, truth.mobile[counted])
        rows.append([scores["delta_avg"], scores["aj"], scores["oa"], mobile["d_acc"], mobile["always_static"]])
    names = ("delta_avg", "aj", "oa", "d_acc", "always_static")
    return dict(zip(names, torch.tensor(rows).nanmean(dim=0).tolist(), strict=True))


def _starting(batch: TrackWindow, device: torch.device | str | None = None) -> TrackState:
    uv, visibility = (part.to(device or part.device) for part in (batch.start, batch.start_visibility))
    return TrackState(uv, visibility, torch.zeros_like(visibility), torch.zeros_like(visibility))


def _begin(config: TrainConfig, geometry: str | Path | None, start: str | Path | None) -> tuple[DynPT, str | None]:
    """(network, licence of its weights, which is that of all that went into them)"""
    licences = [OWN_LICENCE]
    weights = None if start is None else load_dynpt(start)
    if weights is not None:
        if replace(weights.config, long_side=config.network.long_side) != config.network:
            raise InputError(f"start: expected weights of {config.network}, but they are of {weights.config}")
        licences.append(licence_of(find_weights(start, shipped=SHIPPED, published={})))
    frozen = None if weights is None else weights.geometry
    if "3d" in config.network.encoders and (frozen is None or geometry is not None):
        given = "small" if geometry is None else geometry
        try:
            named = load_dust3r(given)
            licences.append(licence_of(find_weights(given)))
        except InputError as error:
            raise InputError(f"geometry: {error}") from error
        if frozen is not None and fingerprint(frozen) != fingerprint(named):
            raise InputError(f"start: expected weights that were trained with the 3D-aware encoder of {geometry}")
        frozen = named
    network = DynPT(config.network, geometry=frozen)
    if weights is not None:
        network.load_state_dict(weights.state_dict())
    foreign = [licence for licence in licences if licence != OWN_LICENCE]
    return network, foreign[0] if foreign else OWN_LICENCE


def _windows(clips: list[ClipSource], config: TrainConfig, **options: object) -> TrackWindows:
    network = config.network
    return TrackWindows(
        clips,
        size=network.long_side,
        frames=config.window,
        points=config.points,
        flow_start=network.flow_start,
        **options,
    )


def _fixed_windows(clips: list[ClipSource], config: TrainConfig) -> list[TrackWindow]:
    if not clips:
        return []
    windows = _windows(clips, config, seed=VALIDATION_SEED, augment=False)
    return [windows[number] for number in range(config.validation_windows)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    goes_on = f"the same command goes on at the last checkpoint in {options.out}"
    return run_command(_run, options, after_interruption=goes_on)


def _run(options: argparse.Namespace) -> None:
    preset = PRESETS[options.preset]
    long_side = preset.network.long_side if options.size is None else options.size
    network = replace(preset.network, encoders=tuple(options.encoders.split("+")), long_side=long_side)
    config = replace(preset, network=network, **recipe_options(options, preset))
    validation = [] if options.validation is None else clip_sources(options.validation)
    train(
        clip_sources(options.clips),
        options.out,
        config=config,
        geometry=options.geometry,
        start=options.start,
        validation=validation,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.correspondence.training",
        description="Train DynPT on clips with tracks: archives of python -m c4d_nb.kubric.generate, MOVi records.",
    )
    parser.add_argument("clips", type=Path, help="folder of clip archives and MOVi records")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for weights, checkpoint and loss plot")
    parser.add_argument("--validation", type=Path, metavar="DIR", help="folder of clips that are only looked at")
    parser.add_argument("--start", metavar="FILE", help="weights of DynPT to begin with")
    network_of = "pointmap network of the 3D-aware encoder (default: that of --start, or small)"
    parser.add_argument("--geometry", metavar="NAME", help=network_of)
    parser.add_argument("--encoders", default="+".join(ENCODERS), metavar="NAMES", help="cnn+3d (default), cnn or 3d")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="default small")
    parser.add_argument("--size", type=int, metavar="PX", help="height and width of the frames (default: the preset's)")
    add_recipe_options(parser, PRESETS["small"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
