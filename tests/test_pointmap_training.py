"""Training of a pointmap network: that it learns, goes on exactly where it was interrupted, and what it leaves."""

import json
import logging
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from matplotlib.figure import Figure

import c4d_nb.training as shared
from c4d_nb import Clip, checkpoints
from c4d_nb.checkpoints import licence_of, save_dust3r
from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from c4d_nb.kubric.takes import static_takes
from c4d_nb.pointmaps import training
from c4d_nb.pointmaps.dust3r import SMALL, DUSt3R, DUSt3RConfig
from c4d_nb.pointmaps.training import BothDirections, TrainConfig, main, train
from c4d_nb.show.training import loss_figure

NETWORK = DUSt3RConfig("linear", encoder=(32, 2, 2), decoder=(32, 2, 2), long_side=32, coordinates=True)
CONFIG = TrainConfig(network=NETWORK, steps=6, batch_size=4, validate_every=2, validation_pairs=4)
FILES = ["checkpoint.pt", "losses.json", "losses.png", "model.safetensors"]


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Also where there is a GPU; every step's losses are recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(shared, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    made = static_takes(5, takes=2, frames=3, size=32, samples=1)
    return [clip.save(folder / f"{i}.npz") for i, clip in enumerate(made)]


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory) -> tuple[DUSt3R, Path]:
    """A training that nothing interrupted, and its folder. Do not write to it: all tests share it."""
    out = tmp_path_factory.mktemp("whole")
    return train(clips, out, config=CONFIG), out


@pytest.fixture
def without_plot(monkeypatch):
    """An empty picture takes less time."""
    monkeypatch.setattr(shared, "loss_figure", lambda history: Figure(figsize=(1, 1)))


def assert_same(a: DUSt3R, b: DUSt3R) -> None:
    theirs = b.state_dict()
    assert all(torch.equal(values, theirs[name]) for name, values in a.state_dict().items())


def history(out: Path) -> dict[str, list[tuple[int, float]]]:
    return json.loads((out / "losses.json").read_text())["history"]


def interrupt(monkeypatch, module, name: str, call: int, before=lambda *arguments: None) -> None:
    """The user presses Ctrl-C at a certain call of a function."""
    function, calls = getattr(module, name), []

    def counted(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            before(*arguments)
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


# Learning


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("muon", 1e-2)])
def test_training_learns(clips, tmp_path, optimizer, rate):
    train(clips, tmp_path, config=replace(CONFIG, steps=30, learning_rate=rate, optimizer=optimizer))
    for name in ("loss", "error"):
        values = torch.tensor([value for _, value in history(tmp_path)[name]])
        assert len(values) == 30
        assert values[-5:].mean() < 0.8 * values[:5].mean()


@pytest.mark.usefixtures("without_plot")
def test_rate_rises_and_falls(clips, tmp_path, monkeypatch):
    """No step is wasted on a rate of zero."""
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a, **k: (rates.append(self.param_groups[0]["lr"]), step(self, *a, **k))
    )
    train(clips, tmp_path, config=replace(CONFIG, steps=20, warmup=0.25))
    assert max(rates) == pytest.approx(CONFIG.learning_rate, rel=0.05)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.02 * CONFIG.learning_rate < rates[0]


def test_both_directions_are_two_calls_of_the_network(whole, generator):
    network = whole[0]
    images_1, images_2 = 2 * torch.rand(2, 3, 3, 32, 48, generator=generator) - 1
    with torch.inference_mode():
        both = BothDirections(network)(images_1, images_2)
        there, back = network(images_1, images_2), network(images_2, images_1)
    for found, *expected in zip(both, there, back, strict=True):
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_reverses_are_the_truth_of_exchanged_images(clips):
    pairs = training._fixed_batches(clips, CONFIG)[0]
    there, back = training._with_reverses(pairs), training._with_reverses(pairs.reversed())
    for a, b in zip(there, back, strict=True):
        torch.testing.assert_close(a.roll(len(pairs.images_1), 0).float(), b.float(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("optimizer", "names"), [("adamw", ["AdamW"]), ("muon", ["Muon", "AdamW"])])
def test_optimizers_share_all_parameters_and_decay_matrices_only(whole, optimizer, names):
    optimizers = shared._optimizers(whole[0], replace(CONFIG, optimizer=optimizer))
    assert [type(o).__name__ for o in optimizers] == names
    groups = [group for o in optimizers for group in o.param_groups]
    assert {group["lr"] for group in groups} == {CONFIG.learning_rate}
    parameters = [(p, group["weight_decay"]) for group in groups for p in group["params"]]
    assert {p for p, _ in parameters} == set(whole[0].parameters())
    assert len(parameters) == len(list(whole[0].parameters()))
    assert all(decay == (CONFIG.weight_decay if p.ndim > 1 else 0) for p, decay in parameters)


def test_muon_steps_are_orthogonal_and_as_long_as_those_of_adamw(generator):
    """AdamW's steps have a root mean square of 0.2 to 0.4 of the rate."""
    layer = torch.nn.Linear(48, 24, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(24, 4, generator=generator) @ torch.randn(4, 48, generator=generator) / 9
    layer.weight.grad += 0.1 * torch.randn(24, 48, generator=generator)
    muon, _ = shared._optimizers(layer, replace(CONFIG, optimizer="muon", weight_decay=0.0))
    muon.step()
    change = (layer.weight.detach() - before) / CONFIG.learning_rate
    stretch = torch.linalg.svdvals(change) / (0.2 * 48**0.5)
    assert torch.linalg.cond(layer.weight.grad) > 10
    assert stretch.min() > 0.6
    assert stretch.max() < 1.3


# Interruptions


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("optimizer", shared.OPTIMIZERS)
@pytest.mark.parametrize("save_every", [1, 3])
def test_interrupted_training_goes_on_exactly(clips, tmp_path, save_every, optimizer):
    config = replace(CONFIG, save_every=save_every, optimizer=optimizer)
    whole = train(clips, tmp_path / "whole", config=config)
    out = tmp_path / "interrupted"
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, shared, "_step", 4)
        with pytest.raises(KeyboardInterrupt):
            train(clips, out, config=config)
    assert torch.load(out / "checkpoint.pt")["progress"]["step"] == 3
    assert_same(train(clips, out, config=config), whole)
    assert history(out) == history(tmp_path / "whole")


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("writer", ["checkpoint", "weights"])
def test_interrupted_saving_loses_one_interval_at_most(clips, whole, tmp_path, writer):
    """Half a file was written by then; what was there before is still whole."""
    config = replace(CONFIG, save_every=2)
    module, name = (torch, "save") if writer == "checkpoint" else (training, "save_dust3r")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, module, name, 2, before=lambda content, path: Path(path).with_suffix(".half").write_text("PK"))
        with pytest.raises(KeyboardInterrupt):
            train(clips, tmp_path, config=config)
    (half,) = tmp_path.glob("*.half")
    half.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert torch.load(tmp_path / "checkpoint.pt")["progress"]["step"] == (2 if writer == "checkpoint" else 4)
    assert_same(train(clips, tmp_path, config=config), whole[0])


@pytest.mark.usefixtures("without_plot")
def test_finished_training_stays_as_it_is(clips, tmp_path):
    first = train(clips, tmp_path, config=replace(CONFIG, steps=2))
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert_same(train(clips, tmp_path, config=replace(CONFIG, steps=2)), first)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 7),
        ("learning_rate", 1e-4),
        ("seed", 1),
        ("optimizer", "muon"),
        ("network", replace(NETWORK, patch=32)),
    ],
)
def test_checkpoint_of_another_recipe(clips, whole, name, value):
    with pytest.raises(InputError, match=f"^out: expected a checkpoint with {name} .*, but in .* it is "):
        train(clips, whole[1], config=replace(CONFIG, **{name: value}))


@pytest.mark.parametrize("content", ["nothing", "text", "cut", "other"])
def test_damaged_checkpoint(clips, whole, tmp_path, content):
    path, complete = tmp_path / "checkpoint.pt", (whole[1] / "checkpoint.pt").read_bytes()
    if content == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"nothing": b"", "text": b"junk", "cut": complete[: len(complete) // 2]}[content])
    with pytest.raises(InputError, match=r"^out: .*checkpoint\.pt is damaged .*: delete it to begin anew") as raised:
        train(clips, tmp_path, config=CONFIG)
    assert "\n" not in str(raised.value)


# Weights to begin with


@pytest.mark.usefixtures("without_plot")
def test_start_is_where_training_begins(clips, tmp_path, monkeypatch):
    """At another size of the images, too."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    torch.manual_seed(7)
    start = DUSt3R(replace(NETWORK, long_side=64))
    path = save_dust3r(start, tmp_path / "start.safetensors", licence="Apache-2.0")
    found = train(clips, tmp_path / "out", config=replace(CONFIG, steps=1), start=path)
    assert_same(found, start)
    assert found.config == NETWORK


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("licence", [None, "Apache-2.0", "MIT"])
def test_licence_is_inherited(clips, whole, tmp_path, licence):
    path = save_dust3r(whole[0], tmp_path / "start.safetensors", licence=licence)
    train(clips, tmp_path / "out", config=replace(CONFIG, steps=1), start=path)
    assert licence_of(tmp_path / "out" / "model.safetensors") == licence


@pytest.mark.parametrize("change", [{"encoder": (32, 1, 2)}, {"decoder": (32, 2, 4)}, {"coordinates": False}])
def test_start_of_another_architecture(clips, tmp_path, change):
    path = save_dust3r(DUSt3R(replace(NETWORK, **change)), tmp_path / "start.safetensors", licence="Apache-2.0")
    with pytest.raises(InputError, match=r"^start: expected weights of DUSt3RConfig\("):
        train(clips, tmp_path / "out", config=CONFIG, start=path)


# What it leaves


def test_weights_load_without_a_word_on_licences(whole, caplog):
    checkpoints._tell_licence.cache_clear()
    with caplog.at_level(logging.WARNING):
        model = DUSt3R.from_checkpoint(whole[1])
    assert not caplog.records
    assert licence_of(whole[1] / "model.safetensors") == "Apache-2.0"
    assert model.config == NETWORK
    for name, values in model.state_dict().items():
        torch.testing.assert_close(values, whole[0].state_dict()[name], rtol=1e-3, atol=1e-6)


def test_files(whole):
    network, out = whole
    assert not network.training
    assert sorted(path.name for path in out.iterdir()) == FILES
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o666 & ~umask}
    assert cv2.imread(str(out / "losses.png")).std() > 1
    record = json.loads((out / "losses.json").read_text())
    assert record["step"] == 6
    assert record["recipe"]["network"]["encoder"] == [32, 2, 2]
    assert [step for step, _ in record["history"]["loss"]] == [1, 2, 3, 4, 5, 6]


def test_dpt_networks_are_saved(tmp_path):
    torch.manual_seed(0)
    model = DUSt3R(DUSt3RConfig("dpt", encoder=(32, 2, 2), decoder=(32, 10, 2), long_side=32))
    found = DUSt3R.from_checkpoint(save_dust3r(model, tmp_path / "dpt.safetensors", licence="Apache-2.0"))
    assert found.config == model.config
    assert_same(found, model)


@pytest.mark.usefixtures("without_plot")
def test_validation_is_recorded_and_changes_nothing(clips, whole, tmp_path):
    found = train(clips, tmp_path, config=CONFIG, validation=clips[:1])
    assert_same(found, whole[0])
    steps, errors = zip(*history(tmp_path)["validation"], strict=True)
    assert steps == (2, 4, 6)
    with torch.inference_mode():
        last = training.median_error(BothDirections(found), training._fixed_batches(clips[:1], CONFIG))
    assert errors[-1] == pytest.approx(last, rel=1e-3)  # where the hardware has bfloat16, training looks in it
    assert "validation" not in history(whole[1])


def test_figure_has_a_panel_a_value():
    figure = loss_figure({"loss": [(1, 3.0), (2, 2.0)], "error": [(2, 0.5)]})
    assert [ax.get_title() for ax in figure.axes] == ["loss: 2.000", "error: 0.500"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]
    assert loss_figure({}).axes


# The command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps: expected 1 or more, but it is 0"),
        (["--batch-size", "-1"], "batch_size: expected 1 or more"),
        (["--seed", "-1"], "seed: expected 0 or more"),
        (["--workers", "-1"], "workers: expected 0 or more"),
        (["--learning-rate", "-0.1"], "learning_rate: expected a positive number, but it is -0.1"),
        (["--size", "40"], "size: expected a multiple of 16 px, but it is 40"),
        (["--start", "absent.safetensors"], "name_or_path: expected"),
        (["--validation", "absent"], "clips: expected a folder"),
        (["--out", __file__], "out: expected a folder"),
    ],
)
def test_command_refuses_bad_options(clips, tmp_path, caplog, options, message):
    out = [] if "--out" in options else ["--out", str(tmp_path)]
    assert main([str(clips[0].parent), "--size", "32", "--steps", "1", *out, *options]) == EXIT_BAD_INPUT
    assert message in caplog.text


def test_unknown_optimizer(unchecked):
    with pytest.raises(InputError, match=r"^optimizer: expected one of adamw, muon, but it is 'sgd'$"):
        replace(CONFIG, optimizer="sgd")


def test_command_refuses_bad_clips(clips, tmp_path, caplog):
    command = ["--out", str(tmp_path / "out"), "--size", "32", "--steps", "1", "--batch-size", "1"]
    assert main([str(tmp_path / "absent"), *command]) == EXIT_BAD_INPUT
    assert "clips: expected a folder of clip archives" in caplog.text
    Clip(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 12.0).save(tmp_path / "bare.npz")
    assert main([str(tmp_path), *command]) == EXIT_BAD_INPUT
    assert "paths: expected clips with depth, poses and intrinsics" in caplog.text


def test_command_says_how_to_go_on(clips, tmp_path, caplog, monkeypatch):
    interrupt(monkeypatch, shared, "_step", 1)
    assert main([str(clips[0].parent), "--out", str(tmp_path), "--size", "32"]) == EXIT_INTERRUPTED
    assert "the same command goes on" in caplog.text


def test_two_processes_train_as_one(clips, tmp_path):
    """``accelerate launch --cpu`` starts one process only, so torch's own launcher starts them."""
    command = [str(clips[0].parent), "--size", "32", "--steps", "2", "--batch-size", "2", "--network", "small"]
    launch = ["--nproc-per-node", "2", "--redirects", "3", "--log-dir", str(tmp_path / "logs"), "--standalone"]
    module = ["-m", "c4d_nb.pointmaps.training", *command, "--out", str(tmp_path / "two")]
    shown = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, *module],
        env=shown | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"},
        cwd=Path(__file__).parent.parent,
        timeout=120,
        check=True,
    )
    logs = {path.parent.name: path.read_text() for path in (tmp_path / "logs").rglob("stderr.log")}
    assert ["training" in logs[rank] for rank in ("0", "1")] == [True, False]  # only the first shows its progress

    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    torch.manual_seed(0)
    start = BothDirections(DUSt3R(replace(SMALL, long_side=32))).state_dict()
    one, two = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("one", "two"))
    moved = sum((one[name] - start[name]).square().sum() for name in start).sqrt()
    apart = sum((one[name] - two[name]).square().sum() for name in start).sqrt()
    assert apart < 0.03 * moved  # bfloat16, where the hardware has it, rounds every batch anew
    assert history(tmp_path / "two")["loss"][-1] == pytest.approx(history(tmp_path / "one")["loss"][-1], rel=2e-3)
