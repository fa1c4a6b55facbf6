"""Training of a pointmap network on pairs of static scenes, after DUSt3R (CVPR 2024, sections 3.2 and 4).

``python -m c4d_nb.pointmaps.training CLIPS --out DIR`` on one CPU or GPU, ``accelerate launch -m
c4d_nb.pointmaps.training ...`` on many. The same command goes on where an interrupted one was. Needs the extra
``weights``. Nothing that moves is in the training data, so that moving things break the network as they break DUSt3R:
that is what C4D repairs.
"""

import argparse
import json
import logging
import math
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from c4d_nb.archive import atomic_output
from c4d_nb.checkpoints import find_weights, licence_of, load_dust3r, save_dust3r
from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from c4d_nb.pointmaps.dust3r import SMALL, VITL_DPT, VITL_LINEAR, DUSt3R, DUSt3RConfig, Pointmaps
from c4d_nb.pointmaps.losses import confidence_loss, mean_error, regression_error, relative_point_error
from c4d_nb.pointmaps.pairs import Pairs, StaticPairs, clip_paths, collate
from c4d_nb.show.training import loss_figure

OWN_LICENCE = "Apache-2.0"
"""Of weights that were trained from scratch; others inherit that of what they began with."""
LOG_EVERY = 20
VALIDATION_SEED = 2**31 - 1
CHECKPOINT, WEIGHTS, PLOT, RECORD = "checkpoint.pt", "model.safetensors", "losses.png", "losses.json"

PRESETS = {"small": SMALL, "vitl_linear": VITL_LINEAR, "vitl_dpt": VITL_DPT}
_NUMBERS = ("steps", "batch_size", "save_every", "validate_every", "validation_pairs", "seed", "workers")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """The recipe; the default is that of the weights that ship, a CPU's hour or two."""

    network: DUSt3RConfig = SMALL
    steps: int = 3100
    batch_size: int = 8
    """Of all processes together. Every pair is decoded in both directions."""
    learning_rate: float = 1e-3
    warmup: float = 0.05
    """Share of the steps in which the rate rises linearly; it falls to zero along a cosine."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    max_gradient_norm: float = 1.0
    save_every: int = 100
    """Steps after which a kill loses nothing of what was before."""
    validate_every: int = 250
    validation_pairs: int = 64
    seed: int = 0
    workers: int = 0
    """Processes that read clips, beside each training process."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "validate_every", "validation_pairs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, but it is {getattr(self, name)}")
        for name in ("seed", "workers", "learning_rate"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected 0 or more, but it is {getattr(self, name)}")
        if self.network.long_side % self.network.patch:
            raise InputError(
                f"size: expected a multiple of {self.network.patch} px, but it is {self.network.long_side}"
            )


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """(step, value) by name: ``loss`` and ``error`` of the training pairs, ``validation`` of others."""

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.history.setdefault(name, []).append((self.step, value))


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
    accelerator = Accelerator(
        mixed_precision="bf16" if torch.cuda.is_available() else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # a DPT head has a unit without a use, see c4d_nb.pointmaps.heads
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.network.head == "dpt")],
    )
    if config.batch_size % accelerator.num_processes:
        found = f"{config.batch_size} for {accelerator.num_processes} processes"
        raise InputError(f"batch_size: expected a multiple of the number of processes, but it is {found}")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: expected a folder to write to, but {out} is none ({error.strerror})") from error
    torch.manual_seed(config.seed)
    network, licence = _begin(config, start)
    optimizer = torch.optim.AdamW(_groups(network, config.weight_decay), config.learning_rate, betas=config.betas)
    progress = _resume(out / CHECKPOINT, config, network, optimizer)
    watched = _fixed_batches(validation, config)
    model, optimizer, loader = accelerator.prepare(
        BothDirections(network), optimizer, _loader(clips, config, done=progress.step)
    )
    bar = tqdm(
        total=config.steps,
        initial=progress.step,
        desc="training",
        unit="step",
        **({} if accelerator.is_main_process else {"disable": True}),
    )
    for pairs in loader:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_share(progress.step / config.steps, config.warmup)
        losses = _step(accelerator, model, optimizer, pairs, config.max_gradient_norm)
        progress.step += 1
        bar.update()
        last = progress.step == config.steps
        if last or progress.step % LOG_EVERY == 0:
            loss, error = accelerator.reduce(torch.stack(losses), "mean").tolist()
            progress.add(loss=loss, error=error)
            bar.set_postfix(loss=f"{loss:.3f}", error=f"{error:.3f}", refresh=False)
        if watched and (last or progress.step % config.validate_every == 0):
            progress.add(validation=validate(accelerator.unwrap_model(model), watched))
        if accelerator.is_main_process and (last or progress.step % config.save_every == 0):
            _save(out, config, network, optimizer, progress, licence)
    bar.close()
    return network.eval()


def learning_rate_share(progress: float, warmup: float) -> float:
    """Of the peak: a linear rise, then half a cosine down to zero at ``progress`` 1."""
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


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


def validate(model: BothDirections, batches: list[Pairs]) -> float:
    """The median over pairs of the relative point error (``c4d_nb.pointmaps.losses.relative_point_error``)."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    errors = []
    with torch.inference_mode():
        for batch in batches:
            pairs = Pairs(*(part.to(device) for part in batch))
            truth = _with_reverses(pairs)
            found = model(pairs.images_1, pairs.images_2)
            errors.append(relative_point_error(found.xyz_1.float(), found.xyz_2.float(), *truth))
    model.train(training)
    return torch.cat(errors).nanmedian().item()


def _step(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, pairs: Pairs, max_norm: float
) -> tuple[Tensor, Tensor]:
    """One step down the gradient; (loss, error) of the batch before it."""
    with accelerator.autocast():
        found = model(pairs.images_1, pairs.images_2)
    truth = _with_reverses(pairs)
    errors = regression_error(found.xyz_1.float(), found.xyz_2.float(), *truth)
    loss = confidence_loss(*errors, found.conf_1.float(), found.conf_2.float(), *truth[2:])
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.detach(), mean_error(*errors, *truth[2:]).detach()


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


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices, none for biases and norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _loader(clips: list[Path], config: TrainConfig, *, done: int) -> DataLoader:
    """The batches of steps ``done`` and later: which pairs a step sees depends on its number only."""
    numbers = range(done * config.batch_size, config.steps * config.batch_size)
    pairs = Subset(StaticPairs(clips, size=config.network.long_side, seed=config.seed), numbers)
    return DataLoader(pairs, config.batch_size, num_workers=config.workers, collate_fn=collate, drop_last=True)


def _fixed_batches(clips: list[Path], config: TrainConfig) -> list[Pairs]:
    if not clips:
        return []
    pairs = StaticPairs(clips, size=config.network.long_side, seed=VALIDATION_SEED)
    return [
        collate([pairs[i] for i in numbers.tolist()])
        for numbers in torch.arange(config.validation_pairs).split(config.batch_size)
    ]


def _save(
    out: Path, config: TrainConfig, model: DUSt3R, optimizer: Optimizer, progress: Progress, licence: str | None
) -> None:
    """Everything a resumed training needs, the weights alone, and the losses; each file appears whole or not at all."""
    state = {"config": asdict(config), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic_output(out / CHECKPOINT) as partial:
        torch.save(state | {"progress": asdict(progress)}, partial)
    save_dust3r(model, out / WEIGHTS, dtype=torch.float16, licence=licence)
    with atomic_output(out / RECORD) as partial:
        partial.write_text(json.dumps({"config": asdict(config), **asdict(progress)}))
    with atomic_output(out / PLOT) as partial:
        loss_figure(progress.history).savefig(partial, dpi=110)


def _resume(path: Path, config: TrainConfig, model: DUSt3R, optimizer: Optimizer) -> Progress:
    """Load a checkpoint of the same recipe into model and optimiser; without one, nothing is done yet."""
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["config"]
    except Exception as error:  # a pickle that is none may raise anything
        raise InputError(f"out: {path} is damaged ({type(error).__name__}): delete it to begin anew") from error
    expected = asdict(config)
    differing = [name for name in expected if expected[name] != found.get(name)]
    if differing:
        name = differing[0]
        raise InputError(
            f"out: expected a checkpoint with {name} {expected[name]}, but in {path} it is {found.get(name)}"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    recipe = {name: getattr(options, name) for name in (*_NUMBERS, "learning_rate")}
    try:
        preset = PRESETS[options.network]
        network = replace(preset, long_side=options.size or preset.long_side)
        config = TrainConfig(network=network, **recipe)
        validation = [] if options.validation is None else clip_paths(options.validation)
        train(clip_paths(options.clips), options.out, config=config, start=options.start, validation=validation)
    except InputError as error:
        _log.error("error: %s", error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _log.error("interrupted: the same command goes on at the last checkpoint in %s", options.out)
        return EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.pointmaps.training",
        description="Train a pointmap network on static clips (python -m c4d_nb.kubric.takes makes some).",
    )
    default = TrainConfig()
    parser.add_argument("clips", type=Path, help="folder of clip archives")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for weights, checkpoint and loss plot")
    parser.add_argument("--validation", type=Path, metavar="DIR", help="folder of clips that are only looked at")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with")
    parser.add_argument("--network", choices=PRESETS, default="small", help="default small")
    parser.add_argument(
        "--size", type=int, metavar="PX", help="height and width of the images (default: the network's)"
    )
    for name in _NUMBERS:
        option, value = f"--{name.replace('_', '-')}", getattr(default, name)
        parser.add_argument(option, type=int, default=value, metavar="N", help=f"default {value}")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, metavar="X", help="of the peak")
    return parser


if __name__ == "__main__":
    sys.exit(main())
