"""Where ``OUTSIDE`` and ``INSIDE`` of ``mobility`` are from: a logistic regression of what truly moves.

``python -m c4d_nb.mobility_fit FOLDER ... --tracker dynpt`` on clips with true tracks prints how much a tracker's log
odds and the share of frames inside the pipeline's masks say, and what masks add where the tracker's count once.
"""

import argparse
import sys
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Clip
from c4d_nb.command_line import load_tracker
from c4d_nb.commands import run_command
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import Tracker
from c4d_nb.correspondence.windows import clip_sources
from c4d_nb.mask_evaluation import correspondences, robust
from c4d_nb.mobility import CERTAIN, share_inside

PRIOR_WEIGHT = 1e-3
"""Of the squares of what is fitted, beside the mean loss. It gives separable classes an end, and masks a sixth less to
say than the likeliest fit, on the side of caution: other videos' masks are worse."""


def witnesses(clip: Clip, tracker: Tracker) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n"]]:
    """(a tracker's log odds and the share of frames inside the masks, whether it truly moves) of each true track."""
    true = clip.truth.tracks
    index = torch.arange(len(true.query_frame))
    found = tracker(clip.frames, Queries(true.uv[true.query_frame, index], true.query_frame))
    share = share_inside(found, robust(correspondences(clip)))
    log_odds = found.mobility[true.query_frame, index].logit(eps=CERTAIN)
    return torch.stack([log_odds, share], dim=-1), true.mobility[true.query_frame, index] > 0.5


def fit(said: Float[Tensor, "n k"], moves: Bool[Tensor, "n"]) -> tuple[Float[Tensor, "k"], float]:
    """(weights, constant) of the log odds that something moves, by what is said of it."""
    said = torch.cat([said, torch.ones_like(said[:, :1])], dim=1).double()
    sign = 2 * moves.double() - 1

    def loss(weights: Float[Tensor, "k_plus_1"]) -> Float[Tensor, ""]:
        misses = torch.nn.functional.softplus(-sign * (said @ weights)).mean()
        return misses + PRIOR_WEIGHT * weights[:-1].square().sum()

    def loss_and_slope(values: object) -> tuple[float, object]:
        weights = torch.tensor(values, requires_grad=True)
        value = loss(weights)
        return value.item(), torch.autograd.grad(value, weights)[0].numpy()

    found = torch.from_numpy(minimize(loss_and_slope, torch.zeros(said.shape[1]).double().numpy(), jac=True).x)
    return found[:-1], found[-1].item()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.mobility_fit", description="What a tracker and motion masks say of what moves."
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of clips with true tracks")
    parser.add_argument("--tracker", default="dynpt", metavar="NAME", help="flow (chained), or DynPT's weights")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    tracker = load_tracker(options.tracker)
    sources = [source for folder in options.folders for source in clip_sources(folder)]
    found = [witnesses(source.load(), tracker) for source in tqdm(sources, desc="clips", unit="clip")]
    said, moves = (torch.cat(parts) for parts in zip(*found, strict=True))
    (odds, share), constant = fit(said, moves)
    print(f"{len(moves)} tracks of {len(sources)} clips, {100 * moves.float().mean():.0f} % of them dynamic")
    print(f"log odds = {odds:.2f} * tracker's + {share:.2f} * share + {constant:.2f}")
    print(f"where the tracker's count once: outside {constant / odds:.2f}, inside {(share + constant) / odds:.2f}")


if __name__ == "__main__":
    sys.exit(main())
