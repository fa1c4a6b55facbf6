"""What the trainings of both networks share: a recipe's common part, the loop with its checkpoints, and the command.

Needs the extra ``weights``.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from c4d_nb.archive import atomic_output
from c4d_nb.errors import InputError
from c4d_nb.precision import hardware_has_bf16
from c4d_nb.show.training import loss_figure

OWN_LICENCE = "Apache-2.0"
"""Of weights that were trained from scratch; others inherit that of what they began with."""
LOG_EVERY = 20
CHECKPOINT, WEIGHTS, PLOT, RECORD = "checkpoint.pt", "model.safetensors", "losses.png", "losses.json"

OptimizerName = Literal["adamw", "muon"]
OPTIMIZERS = get_args(OptimizerName)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The part of a recipe that every training has."""

    steps: int
    batch_size: int
    """Of all processes together."""
    learning_rate: float
    """The peak: the rate rises to it and falls along a cosine (OneCycle, Smith and Topin, 2017)."""
    optimizer: OptimizerName = "adamw"
    """``muon`` makes the steps of matrices orthogonal (Jordan et al., 2024); all else is AdamW's in either case."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises."""
    weight_decay: float = 0.05
    """Of matrices; biases and norms have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    max_gradient_norm: float = 1.0
    save_every: int = 100
    """Steps after which a kill loses nothing of what was before."""
    validate_every: int = 250
    seed: int = 0
    workers: int = 0
    """Processes that read clips, beside each training process."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.name in ("seed", "workers") else 1
            if f.type is int and value < least:
                raise InputError(f"{f.name}: expected {least} or more, but it is {value}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, but it is {self.optimizer!r}")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate: expected a positive number, but it is {self.learning_rate}")


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """(step, value) by name."""

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.history.setdefault(name, []).append((self.step, value))


def accelerator_for(recipe: Recipe, *, unused_parameters: bool = False) -> Accelerator:
    """One CPU or GPU, or as many as ``accelerate launch`` says; bf16 where the hardware has it. Seeds torch."""
    accelerator = Accelerator(
        mixed_precision="bf16" if hardware_has_bf16() else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)],
    )
    if recipe.batch_size % accelerator.num_processes:
        found = f"{recipe.batch_size} for {accelerator.num_processes} processes"
        raise InputError(f"batch_size: expected a multiple of the number of processes, but it is {found}")
    torch.manual_seed(recipe.seed)
    return accelerator


def batches(dataset: Dataset, recipe: Recipe, *, done: int, collate: Callable[[list[Any]], Any]) -> DataLoader:
    """Those of steps ``done`` and later: what a step sees depends on its number only."""
    numbers = range(done * recipe.batch_size, recipe.steps * recipe.batch_size)
    return DataLoader(
        Subset(dataset, numbers), recipe.batch_size, num_workers=recipe.workers, collate_fn=collate, drop_last=True
    )


def fit(
    accelerator: Accelerator,
    recipe: Recipe,
    out: str | Path,
    *,
    model: nn.Module,
    dataset: Dataset,
    collate: Callable[[list[Any]], Any],
    losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    validate: Callable[[nn.Module], dict[str, float]] | None,
    save_weights: Callable[[Path], object],
    note: str = "",
) -> None:
    """Train ``model`` in place, and leave weights, checkpoint, record and picture of the losses in ``out``.

    ``losses`` of a batch, by name: the first is minimised, all are recorded. ``validate`` runs in evaluation mode
    without gradients. If ``out`` holds a checkpoint of the same recipe and ``note``, training goes on there, and comes
    to what it would have come to without the break. Raises ``InputError`` for a checkpoint of another.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: expected a folder to write to, but {out} is none ({error.strerror})") from error
    optimizers = _optimizers(model, recipe)
    schedules = [_schedule(optimizer, recipe) for optimizer in optimizers]
    state = {"model": model} | {
        f"{name}_{i}": part
        for name, parts in (("optimizer", optimizers), ("schedule", schedules))
        for i, part in enumerate(parts)
    }
    identity = asdict(recipe) | {"note": note}
    progress = _resume(out / CHECKPOINT, identity, state)
    wrapped, loader, *stepped = accelerator.prepare(
        model.train(), batches(dataset, recipe, done=progress.step, collate=collate), *optimizers
    )
    hidden = {} if accelerator.is_main_process else {"disable": True}
    bar = tqdm(total=recipe.steps, initial=progress.step, desc="training", unit="step", **hidden)
    for batch in loader:
        found = _step(accelerator, wrapped, stepped, losses, batch, recipe.max_gradient_norm)
        for schedule in schedules:
            schedule.step()
        progress.step += 1
        bar.update()
        last = progress.step == recipe.steps
        if last or progress.step % LOG_EVERY == 0:
            values = accelerator.reduce(torch.stack(list(found.values())), "mean").tolist()
            progress.add(dict(zip(found, values, strict=True)))
            bar.set_postfix({name: f"{value:.3f}" for name, value in zip(found, values, strict=True)}, refresh=False)
        if validate is not None and (last or progress.step % recipe.validate_every == 0):
            with torch.inference_mode():
                progress.add(validate(model.eval()))
            model.train()
        if accelerator.is_main_process and (last or progress.step % recipe.save_every == 0):
            _save(out, identity, state, progress)
            save_weights(out / WEIGHTS)
    bar.close()
    model.eval()


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizers: list[Optimizer],
    losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    batch: Any,
    max_norm: float,
) -> dict[str, Tensor]:
    """One step down the gradient; the losses of the batch before it."""
    found = losses(model, batch)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    accelerator.backward(next(iter(found.values())))
    accelerator.clip_grad_norm_(model.parameters(), max_norm)
    for optimizer in optimizers:
        optimizer.step()
    return {name: value.detach() for name, value in found.items()}


def _optimizers(model: nn.Module, recipe: Recipe) -> list[Optimizer]:
    """AdamW, and Muon before it if the recipe says so; its steps are as long as AdamW's would be at the same rate."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    vectors = {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}
    matrices = [p for p in model.parameters() if p.ndim > 1]
    if recipe.optimizer == "adamw":
        return [AdamW([{"params": matrices, "weight_decay": decay}, vectors], rate, betas=recipe.betas)]
    kernels = {"params": [p for p in matrices if p.ndim > 2], "weight_decay": decay}
    return [
        Muon([p for p in matrices if p.ndim == 2], rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        AdamW([kernels, vectors], rate, betas=recipe.betas),
    ]


def _schedule(optimizer: Optimizer, recipe: Recipe) -> LRScheduler:
    return OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps + 1, pct_start=recipe.warmup, cycle_momentum=False
    )


def _save(out: Path, identity: dict[str, Any], state: dict[str, Any], progress: Progress) -> None:
    """Everything a resumed training needs, and the losses for people; each file appears whole or not at all."""
    content = {name: part.state_dict() for name, part in state.items()}
    with atomic_output(out / CHECKPOINT) as partial:
        torch.save({"recipe": identity, "progress": asdict(progress)} | content, partial)
    with atomic_output(out / RECORD) as partial:
        partial.write_text(json.dumps({"recipe": identity, **asdict(progress)}))
    with atomic_output(out / PLOT) as partial:
        loss_figure(progress.history).savefig(partial, dpi=110)


def _resume(path: Path, identity: dict[str, Any], state: dict[str, nn.Module | Optimizer | LRScheduler]) -> Progress:
    """Load a checkpoint of the same recipe into the parts of ``state``; without one, nothing is done yet."""
    if not path.exists():
        return Progress()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["recipe"]
    except Exception as error:  # a pickle that is none may raise anything
        raise InputError(f"out: {path} is damaged ({type(error).__name__}): delete it to begin anew") from error
    for name, expected in identity.items():
        if found.get(name) != expected:
            raise InputError(
                f"out: expected a checkpoint with {name} {expected}, but in {path} it is {found.get(name)}"
            )
    for name, part in state.items():
        part.load_state_dict(content[name])
    return Progress(**content["progress"])


def add_recipe_options(parser: argparse.ArgumentParser, default: Recipe) -> None:
    """An option for every whole number of a recipe, for its learning rate, and for its optimizer."""
    for f in fields(default):
        if f.type is int:
            option, value = f"--{f.name.replace('_', '-')}", getattr(default, f.name)
            parser.add_argument(option, type=int, metavar="N", help=f"default {value}")
    parser.add_argument("--learning-rate", type=float, metavar="X", help=f"the peak, default {default.learning_rate}")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help=f"default {default.optimizer}")


def recipe_options(options: argparse.Namespace, default: Recipe) -> dict[str, int | float | str]:
    """Those of ``add_recipe_options`` that were given."""
    names = [f.name for f in fields(default) if f.type is int or f.name in ("learning_rate", "optimizer")]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}
