"""Training of a pointmap network on pairs of static scenes, after DUSt3R (CVPR 2024, sections 3.2 and 4).

``python -m c4d_nb.pointmaps.training CLIPS --out DIR`` on one CPU or GPU, ``accelerate launch -m
c4d_nb.pointmaps.training ...`` on many. The same command goes on where an interrupted one was. Needs the extra
``weights``. Nothing that moves is in the training data, so that moving things break the network as they break DUSt3R:
that is what C4D repairs.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from c4d_nb.checkpoints import find_weights, licence_of, load_dust3r, save_dust3r
from c4d_nb.commands import run_command
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import SMALL, VITL_DPT, VITL_LINEAR, DUSt3R, DUSt3RConfig, Pointmaps
from c4d_nb.pointmaps.losses import confidence_loss, mean_error, regression_error, relative_point_error
from c4d_nb.pointmaps.pairs import Pairs, StaticPairs, clip_paths, collate
from c4d_nb.training import OWN_LICENCE, Recipe, accelerator_for, add_recipe_options, fit, recipe_options

VALIDATION_SEED = 2**31 - 1
PRESETS = {"small": SMALL, "vitl_linear": VITL_LINEAR, "vitl_dpt": VITL_DPT}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """The recipe; the default is the first part of that of the weights that ship (``make weights``), one and a half
    hours on a core that multiplies bfloat16."""

    network: DUSt3RConfig = SMALL
    steps: int = 15_000
    batch_size: int = 8
    """Every pair is decoded in both directions."""
    learning_rate: float = 1e-3
    validation_pairs: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network.long_side % self.network.patch:
            raise InputError(
                f"size: expected a multiple of {self.network.patch} px, but it is {self.network.long_side}"
            )


def train(
    clips: list[Path],
    out: str | Path,
    *,
    config: TrainConfig = TrainConfig(),
    start: str | Path | None = None,
    validation: list[Path] = [],  # noqa: B006 never written to
) -> DUSt3R:
    """Train on static ``clips`` and leave ``model.safetensors`` with a picture and a record of the losses in ``out``.

    ``start`` are weights to begin with, of a training at a smaller size for one. If ``out`` holds a checkpoint of the
    same recipe, training goes on there. ``validation`` clips are only looked at. Raises ``InputError`` for clips that
    are no static ones, or a checkpoint of another recipe.
    """
    # a DPT head has a unit without a use, see c4d_nb.pointmaps.heads
    accelerator = accelerator_for(config, unused_parameters=config.network.head == "dpt")
    network, licence = _begin(config, start)
    watched = _fixed_batches(validation, config)

    def losses(model: nn.Module, pairs: Pairs) -> dict[str, Tensor]:
        with accelerator.autocast():
            found = model(pairs.images_1, pairs.images_2)
        truth = _with_reverses(pairs)
        errors = regression_error(found.xyz_1.float(), found.xyz_2.float(), *truth)
        loss = confidence_loss(*errors, found.conf_1.float(), found.conf_2.float(), *truth[2:])
        return {"loss": loss, "error": mean_error(*errors, *truth[2:])}

    fit(
        accelerator,
        config,
        out,
        model=BothDirections(network),
        dataset=StaticPairs(clips, size=config.network.long_side, seed=config.seed),
        collate=collate,
        losses=losses,
        validate=(lambda model: {"validation": median_error(model, watched)}) if watched else None,
        save_weights=lambda path: save_dust3r(network, path, dtype=torch.float16, licence=licence),
    )
    return network


class BothDirections(nn.Module):
    """The network on every pair and its reverse: each image is encoded once, decoded as the first and as the second.

    Of b pairs come 2 b pointmaps: those of all pairs, then those of their reverses.
    """

    def __init__(self, network: DUSt3R) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_1: Float[Tensor, "b 3 h w"], images_2: Float[Tensor, "b 3 h w"]) -> Pointmaps:
        tokens = self.network.encode(torch.cat([images_1, images_2]))
        return self.network.decode(tokens, tokens.roll(len(images_1), 0), tuple(images_1.shape[-2:]))


def median_error(model: BothDirections, batches: list[Pairs]) -> float:
    """The median over pairs of the relative point error (``c4d_nb.pointmaps.losses.relative_point_error``)."""
    device = next(model.parameters()).device
    errors = []
    for batch in batches:
        pairs = Pairs(*(part.to(device) for part in batch))
        found = model(pairs.images_1, pairs.images_2)
        errors.append(relative_point_error(found.xyz_1.float(), found.xyz_2.float(), *_with_reverses(pairs)))
    return torch.cat(errors).nanmedian().item()


def _with_reverses(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(xyz_1, xyz_2, valid_1, valid_2) as ``BothDirections`` orders them."""
    return tuple(torch.cat(parts) for parts in zip(pairs[2:6], pairs.reversed()[2:6], strict=True))


def _begin(config: TrainConfig, start: str | Path | None) -> tuple[DUSt3R, str | None]:
    """(network, licence of its weights)"""
    network = DUSt3R(config.network)
    if start is None:
        return network, OWN_LICENCE
    weights = load_dust3r(start)
    if replace(weights.config, long_side=config.network.long_side) != config.network:
        raise InputError(f"start: expected weights of {config.network}, but they are of {weights.config}")
    network.load_state_dict(weights.state_dict())
    return network, licence_of(find_weights(start))


def _fixed_batches(clips: list[Path], config: TrainConfig) -> list[Pairs]:
    if not clips:
        return []
    pairs = StaticPairs(clips, size=config.network.long_side, seed=VALIDATION_SEED)
    return [
        collate([pairs[i] for i in numbers.tolist()])
        for numbers in torch.arange(config.validation_pairs).split(config.batch_size)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    goes_on = f"the same command goes on at the last checkpoint in {options.out}"
    return run_command(_run, options, after_interruption=goes_on)


def _run(options: argparse.Namespace) -> None:
    preset = PRESETS[options.network]
    network = replace(preset, long_side=options.size or preset.long_side)
    config = TrainConfig(network=network, **recipe_options(options, TrainConfig()))
    validation = [] if options.validation is None else clip_paths(options.validation)
    train(clip_paths(options.clips), options.out, config=config, start=options.start, validation=validation)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.pointmaps.training",
        description="Train a pointmap network on static clips (python -m c4d_nb.kubric.takes makes some).",
    )
    parser.add_argument("clips", type=Path, help="folder of clip archives")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for weights, checkpoint and loss plot")
    parser.add_argument("--validation", type=Path, metavar="DIR", help="folder of clips that are only looked at")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with")
    parser.add_argument("--network", choices=PRESETS, default="small", help="default small")
    parser.add_argument(
        "--size", type=int, metavar="PX", help="height and width of the images (default: the network's)"
    )
    add_recipe_options(parser, TrainConfig())
    return parser


if __name__ == "__main__":
    sys.exit(main())
