"""Training of DynPT: that it learns, goes on exactly where it was interrupted, and what it leaves."""

import inspect
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from test_pointmap_training import history, interrupt
from test_windows import random_clip

import c4d_nb.training as shared
from c4d_nb import Clip
from c4d_nb.checkpoints import licence_of, save_dust3r
from c4d_nb.clip import Tracks, Truth
from c4d_nb.correspondence import training
from c4d_nb.correspondence.dynpt import SMALL, DynPT, DynPTConfig
from c4d_nb.correspondence.losses import TrackTruth
from c4d_nb.correspondence.training import TrainConfig, main, train, window_scores
from c4d_nb.correspondence.weights import fingerprint, load_dynpt, save_dynpt
from c4d_nb.correspondence.windows import ClipSource, TrackWindow
from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig

NETWORK = DynPTConfig(
    channels=8,
    cnn_widths=(4, 8, 8, 8),
    levels=2,
    radius=1,
    correlation=(8, 8),
    displacement_bands=4,
    width=16,
    depth=1,
    heads=2,
    virtual=2,
    passes=2,
    long_side=32,
)
CONFIG = TrainConfig(
    network=NETWORK, steps=6, batch_size=2, window=6, points=8, validate_every=2, validation_windows=3, workers=0
)
GEOMETRY = DUSt3RConfig("linear", encoder=(32, 1, 2), decoder=(32, 1, 2), long_side=32)
FILES = ["checkpoint.pt", "losses.json", "losses.png", "model.safetensors"]
LOSSES = ("loss", "position", "visibility", "confidence", "mobility")


def film(seed: int, t: int = 8, side: int = 40, n: int = 24) -> Clip:
    """A texture that slides by, and on every second point a square of its own colour that goes the other way."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.randint(-2, 3, (2,), generator=generator)
    coarse = torch.randint(256, (1, 3, 16, 16), generator=generator).float()
    texture = torch.nn.functional.interpolate(coarse, scale_factor=4)[0].permute(1, 2, 0).byte()
    frames = torch.stack([texture.roll((-i * step).tolist(), (1, 0))[:side, :side] for i in range(t)])
    start = torch.randint(4, side - 4, (n, 2), generator=generator)
    direction = torch.where(torch.arange(n) % 2 == 1, 1, -1)[:, None] * step
    uv = start + torch.arange(t)[:, None, None] * direction
    mobile = (torch.arange(n) % 2 == 1).expand(t, n)
    for i in range(t):
        for (u, v), (red, green) in zip(uv[i, 1::2].tolist(), start[1::2].tolist(), strict=True):
            frames[i, max(v - 1, 0) : max(v + 2, 0), max(u - 1, 0) : max(u + 2, 0)] = torch.tensor(
                [6 * red, 6 * green, 0], dtype=torch.uint8
            )
    visible = ((uv >= 0) & (uv < side)).all(dim=-1)
    tracks = Tracks(uv.float(), visible, torch.ones(t, n), mobile.float(), torch.zeros(n, dtype=torch.long))
    return Clip(frames, 12.0, truth=Truth(tracks=tracks))


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Also where there is a GPU; every step's losses are recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(shared, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    for seed in range(3):
        film(seed).save(path / f"{seed}.npz")
    return path


@pytest.fixture(scope="module")
def clips(folder) -> list[ClipSource]:
    return [ClipSource(path) for path in sorted(folder.iterdir())]


def dust3r(seed: int) -> DUSt3R:
    torch.manual_seed(seed)
    return DUSt3R(GEOMETRY)


@pytest.fixture(scope="module")
def geometry(tmp_path_factory) -> Path:
    return save_dust3r(dust3r(5), tmp_path_factory.mktemp("geometry") / "dust3r.safetensors", licence="Apache-2.0")


@pytest.fixture(scope="module")
def whole(clips, geometry, tmp_path_factory) -> tuple[DynPT, Path]:
    """A training that nothing interrupted, and its folder. Do not write to it: all tests share it."""
    out = tmp_path_factory.mktemp("whole")
    return train(clips, out, config=CONFIG, geometry=geometry), out


@pytest.fixture
def without_plot(monkeypatch):
    """An empty picture takes less time."""
    monkeypatch.setattr(shared, "loss_figure", lambda history: Figure(figsize=(1, 1)))


def with_encoders(*names: str, **changes) -> TrainConfig:
    return replace(CONFIG, network=replace(NETWORK, encoders=names), **changes)


def assert_same(a: DynPT, b: DynPT) -> None:
    theirs = b.state_dict()
    assert a.state_dict().keys() == theirs.keys()
    assert all(torch.equal(values, theirs[name]) for name, values in a.state_dict().items())


# Learning


@pytest.mark.usefixtures("without_plot")
def test_training_learns(clips, tmp_path):
    train(clips, tmp_path, config=with_encoders("cnn", steps=40, learning_rate=2e-2))
    found = history(tmp_path)
    assert tuple(found) == LOSSES
    values = torch.tensor([value for _, value in found["loss"]])
    assert len(values) == 40
    assert values[-10:].mean() < 0.8 * values[:3].mean()


def test_loss_is_the_weighted_sum(whole):
    found = {name: torch.tensor([value for _, value in row]) for name, row in history(whole[1]).items()}
    total = 0.05 * found["position"] + found["visibility"] + found["confidence"] + found["mobility"]
    torch.testing.assert_close(found["loss"], total)


@pytest.mark.usefixtures("without_plot")
def test_frozen_encoder_is_not_trained(clips, geometry, tmp_path, monkeypatch):
    """All else is."""
    stepped, step = set(), torch.optim.AdamW.step

    def watched(self, *arguments, **options):
        stepped.update(id(p) for group in self.param_groups for p in group["params"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    found = train(clips, tmp_path, config=replace(CONFIG, steps=1), geometry=geometry)
    assert stepped == {id(p) for p in found.parameters()}
    assert fingerprint(found.geometry) == fingerprint(dust3r(5))
    assert not [name for name, p in found.geometry.named_parameters() if p.requires_grad or p.grad is not None]


# Interruptions


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("save_every", [1, 3])
def test_interrupted_training_goes_on_exactly(clips, geometry, whole, tmp_path, save_every):
    config = replace(CONFIG, save_every=save_every)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, shared, "_step", 4)
        with pytest.raises(KeyboardInterrupt):
            train(clips, tmp_path, config=config, geometry=geometry)
    assert torch.load(tmp_path / "checkpoint.pt")["progress"]["step"] == 3
    assert_same(train(clips, tmp_path, config=config, geometry=geometry), whole[0])
    assert history(tmp_path) == history(whole[1])


@pytest.mark.usefixtures("without_plot")
def test_interrupted_saving_of_weights(clips, geometry, whole, tmp_path):
    """The checkpoint beside them is newer; what it goes on to is the same."""
    config = replace(CONFIG, save_every=2)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, training, "save_dynpt", 2)
        with pytest.raises(KeyboardInterrupt):
            train(clips, tmp_path, config=config, geometry=geometry)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert torch.load(tmp_path / "checkpoint.pt")["progress"]["step"] == 4
    assert_same(train(clips, tmp_path, config=config, geometry=geometry), whole[0])


@pytest.mark.usefixtures("without_plot")
def test_finished_training_stays_as_it_is(clips, tmp_path):
    config = with_encoders("cnn", steps=2)
    first = train(clips, tmp_path, config=config)
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert_same(train(clips, tmp_path, config=config), first)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written


def test_another_geometry_does_not_go_on(clips, whole, tmp_path):
    other = save_dust3r(dust3r(6), tmp_path / "other.safetensors", licence="Apache-2.0")
    message = r"^out: expected a checkpoint with note geometry [0-9a-f]+, but in .* it is geometry [0-9a-f]+$"
    with pytest.raises(InputError, match=message):
        train(clips, whole[1], config=CONFIG, geometry=other)


@pytest.mark.usefixtures("without_plot")
def test_the_same_geometry_from_another_file_does(clips, geometry, whole, tmp_path):
    """Where it lies and how its decoder is do not matter."""
    network = dust3r(5)
    torch.nn.init.zeros_(network.decoder_embed.weight)
    copy = save_dust3r(network, tmp_path / "copy.safetensors", licence="Apache-2.0")
    train(clips, tmp_path / "out", config=replace(CONFIG, steps=1), geometry=geometry)
    found = train(clips, tmp_path / "out", config=replace(CONFIG, steps=1), geometry=copy)
    assert fingerprint(found.geometry) == fingerprint(whole[0].geometry)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 7), ("points", 4), ("window", 5), ("seed", 1), ("network", replace(NETWORK, width=32))],
)
def test_checkpoint_of_another_recipe(clips, geometry, whole, name, value):
    with pytest.raises(InputError, match=f"^out: expected a checkpoint with {name} .*, but in .* it is "):
        train(clips, whole[1], config=replace(CONFIG, **{name: value}), geometry=geometry)


@pytest.mark.parametrize("content", ["nothing", "text", "cut", "other"])
def test_damaged_checkpoint(clips, geometry, whole, tmp_path, content):
    path, complete = tmp_path / "checkpoint.pt", (whole[1] / "checkpoint.pt").read_bytes()
    if content == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"nothing": b"", "text": b"junk", "cut": complete[: len(complete) // 2]}[content])
    with pytest.raises(InputError, match=r"^out: .*checkpoint\.pt is damaged .*: delete it to begin anew") as raised:
        train(clips, tmp_path, config=CONFIG, geometry=geometry)
    assert "\n" not in str(raised.value)


# Weights to begin with


@pytest.mark.usefixtures("without_plot")
def test_start_is_where_training_begins(clips, tmp_path, monkeypatch):
    """At another size of the frames, too."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    torch.manual_seed(7)
    start = DynPT(replace(NETWORK, encoders=("cnn",), long_side=64))
    path = save_dynpt(start, tmp_path / "start.safetensors")
    found = train(clips, tmp_path / "out", config=with_encoders("cnn", steps=1), start=path)
    assert_same(found, start)
    assert found.config == replace(NETWORK, encoders=("cnn",))


@pytest.mark.parametrize("change", [{"width": 32}, {"depth": 2}, {"context": False}, {"matching": False}])
def test_start_of_another_architecture(clips, tmp_path, change):
    start = save_dynpt(DynPT(replace(NETWORK, encoders=("cnn",), **change)), tmp_path / "start.safetensors")
    with pytest.raises(InputError, match=r"^start: expected weights of DynPTConfig\("):
        train(clips, tmp_path / "out", config=with_encoders("cnn"), start=start)


@pytest.mark.usefixtures("without_plot")
def test_start_with_another_frozen_encoder(clips, geometry, tmp_path):
    start = save_dynpt(DynPT(NETWORK, geometry=dust3r(6)), tmp_path / "start.safetensors")
    with pytest.raises(InputError, match=r"^start: expected weights that were trained with the 3D-aware encoder of"):
        train(clips, tmp_path / "out", config=CONFIG, geometry=geometry, start=start)


@pytest.mark.usefixtures("without_plot")
def test_start_brings_its_frozen_encoder(clips, tmp_path):
    start = save_dynpt(DynPT(NETWORK, geometry=dust3r(6)), tmp_path / "start.safetensors")
    found = train(clips, tmp_path / "out", config=replace(CONFIG, steps=1), start=start)
    assert fingerprint(found.geometry) == fingerprint(dust3r(6))
    assert licence_of(tmp_path / "out" / "model.safetensors") is None  # that of start, which says none


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("licence", [None, "Apache-2.0", "MIT"])
def test_licence_is_that_of_the_frozen_encoder(clips, tmp_path, licence):
    path = save_dust3r(dust3r(5), tmp_path / "dust3r.safetensors", licence=licence)
    train(clips, tmp_path / "out", config=replace(CONFIG, steps=1), geometry=path)
    assert licence_of(tmp_path / "out" / "model.safetensors") == licence


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("licence", [None, "MIT"])
def test_licence_of_the_start_is_inherited(clips, tmp_path, licence):
    start = DynPT(replace(NETWORK, encoders=("cnn",)))
    path = save_dynpt(start, tmp_path / "start.safetensors", licence=licence)
    train(clips, tmp_path / "out", config=with_encoders("cnn", steps=1), start=path)
    assert licence_of(tmp_path / "out" / "model.safetensors") == licence


@pytest.mark.usefixtures("without_plot")
def test_licence_without_a_frozen_encoder(clips, tmp_path):
    train(clips, tmp_path, config=with_encoders("cnn", steps=1), geometry="not looked at")
    assert licence_of(tmp_path / "model.safetensors") == "Apache-2.0"


# What it leaves


def test_weights_load(whole):
    """The file has half precision, and its frozen encoder in it."""
    model = DynPT.from_checkpoint(whole[1])
    assert model.config == NETWORK
    for name, values in model.state_dict().items():
        torch.testing.assert_close(values, whole[0].state_dict()[name], rtol=1e-3, atol=1e-6)
    theirs = model.geometry.state_dict()
    for name, values in theirs.items():
        torch.testing.assert_close(values, whole[0].geometry.state_dict()[name], rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("encoders", [("cnn",), ("3d",)])
def test_one_encoder(clips, geometry, tmp_path, encoders):
    train(clips, tmp_path, config=with_encoders(*encoders, steps=1), geometry=geometry)
    model = load_dynpt(tmp_path)
    assert model.config.encoders == encoders
    assert (model.geometry is None) == (encoders == ("cnn",))


def test_files(whole):
    network, out = whole
    assert not network.training
    assert sorted(path.name for path in out.iterdir()) == FILES
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o666 & ~umask}
    record = json.loads((out / "losses.json").read_text())
    assert record["step"] == 6
    assert record["recipe"]["network"]["cnn_widths"] == [4, 8, 8, 8]
    assert record["recipe"]["note"] == f"geometry {fingerprint(network.geometry)}"
    assert [step for step, _ in record["history"]["loss"]] == [1, 2, 3, 4, 5, 6]


# Validation


@pytest.mark.usefixtures("without_plot")
def test_validation_is_recorded_and_changes_nothing(clips, geometry, whole, tmp_path):
    found = train(clips, tmp_path, config=CONFIG, geometry=geometry, validation=clips[:1])
    assert_same(found, whole[0])
    names = {"delta_avg", "aj", "oa", "d_acc", "always_static"}
    recorded = history(tmp_path)
    assert set(recorded) == {*LOSSES, *names}
    with torch.inference_mode():
        last = window_scores(found, training._fixed_windows(clips[:1], CONFIG))
    for name in names:
        steps, values = zip(*recorded[name], strict=True)
        assert steps == (2, 4, 6)
        assert values[-1] == pytest.approx(last[name])
    assert not names & set(history(whole[1]))


def test_scores_of_a_perfect_tracker(clips):
    """One whose answer is the truth of the window that it is asked about."""
    windows = training._fixed_windows(clips, CONFIG)

    class Perfect(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.answers = iter(windows)

        def forward(self, frames, queries, state):
            truth = next(self.answers).truth
            logits = [20.0 * (part.float() - 0.5) for part in (truth.visible, truth.valid, truth.mobile)]
            return [training.TrackState(truth.uv[None], *(part[None] for part in logits))]

    found = inspect.unwrap(window_scores)(Perfect(), windows)  # a stand-in passes for a network
    assert all(found[name] == pytest.approx(1) for name in ("delta_avg", "aj", "oa", "d_acc"))
    assert 0 < found["always_static"] < 1


def test_validation_windows_are_always_the_same(clips):
    one, other = (training._fixed_windows(clips, config) for config in (CONFIG, replace(CONFIG, seed=5)))
    assert len(one) == 3
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.queries, b.queries)


def test_losses_of_a_window_without_visible_points_are_finite(clips, geometry):
    """Nothing is known of it; no NaN comes of it."""
    window = training._fixed_windows(clips, CONFIG)[0]
    hidden = torch.zeros_like(window.truth.visible)
    truth = TrackTruth(window.truth.uv, hidden, hidden, hidden, window.truth.query_frame)
    model = DynPT(replace(NETWORK, encoders=("cnn",)))
    batch = training.collate([TrackWindow(*window[:4], truth)])
    states = model(batch.frames, batch.queries, training._starting(batch))
    assert training.track_losses(states, batch.truth).total().item() == 0


# The command


def command(folder: Path, out: Path, *options: str) -> list[str]:
    sizes = ["--size", "32", "--steps", "1", "--batch-size", "1", "--points", "8", "--window", "6"]
    return [str(folder), "--out", str(out), *sizes, *options]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps: expected 1 or more, but it is 0"),
        (["--points", "0"], "points: expected 1 or more, but it is 0"),
        (["--window", "0"], "window: expected 1 or more, but it is 0"),
        (["--learning-rate", "-0.1"], "learning_rate: expected a positive number, but it is -0.1"),
        (["--encoders", "vit"], "encoders: expected one or both of ('cnn', '3d'), each once, but they are ('vit',)"),
        (["--encoders", "cnn", "--window", "9"], "clips: expected 9 frames or more, but"),
        (["--encoders", "cnn", "--size", "24"], "size: expected 32 px or more, but it is 24"),
        (["--encoders", "cnn", "--size", "-32"], "size: expected"),
        (["--geometry", "absent.safetensors"], "geometry: name_or_path: expected"),
        (["--start", "absent.safetensors"], "name_or_path: expected"),
        (["--validation", "absent"], "clips: expected a folder"),
        (["--encoders", "cnn", "--out", __file__], "out: expected a folder"),
    ],
)
def test_command_refuses_bad_options(folder, tmp_path, caplog, options, message):
    assert main(command(folder, tmp_path / "out", *options)) == EXIT_BAD_INPUT
    assert message in caplog.text
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]


def test_command_refuses_bad_clips(tmp_path, caplog):
    options = ["--encoders", "cnn"]
    assert main(command(tmp_path / "absent", tmp_path / "out", *options)) == EXIT_BAD_INPUT
    assert "clips: expected a folder of clip archives (.npz) or MOVi records" in caplog.text
    replace(random_clip(), truth=None).save(tmp_path / "bare.npz")
    assert main(command(tmp_path, tmp_path / "out", *options)) == EXIT_BAD_INPUT
    assert "clips: expected clips with true tracks" in caplog.text


def test_command_refuses_start_of_another_architecture(folder, tmp_path, caplog):
    start = save_dynpt(DynPT(replace(NETWORK, encoders=("cnn",))), tmp_path / "start.safetensors")
    assert main(command(folder, tmp_path / "out", "--encoders", "cnn", "--start", str(start))) == EXIT_BAD_INPUT
    assert "start: expected weights of DynPTConfig(" in caplog.text


def test_command_refuses_a_damaged_checkpoint(folder, tmp_path, caplog):
    (tmp_path / "checkpoint.pt").write_bytes(b"junk")
    assert main(command(folder, tmp_path, "--encoders", "cnn")) == EXIT_BAD_INPUT
    assert "is damaged" in caplog.text


@pytest.mark.usefixtures("without_plot")
@pytest.mark.parametrize("encoders", ["cnn", "3d"])
def test_command_trains_the_encoders_it_is_told(folder, geometry, tmp_path, encoders):
    assert main(command(folder, tmp_path, "--encoders", encoders, "--geometry", str(geometry))) == 0
    config = DynPT.from_checkpoint(tmp_path).config
    assert config == replace(SMALL, encoders=tuple(encoders.split("+")), long_side=32)


def test_command_says_how_to_go_on(folder, tmp_path, caplog, monkeypatch):
    interrupt(monkeypatch, shared, "_step", 1)
    assert main(command(folder, tmp_path, "--encoders", "cnn")) == EXIT_INTERRUPTED
    assert "the same command goes on" in caplog.text


@pytest.mark.parametrize("name", ["points", "window", "validation-windows", "workers"])
def test_recipe_has_an_option_for_each_number(name, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"--{name} N" in capsys.readouterr().out


def test_two_processes_train_as_one(folder, geometry, tmp_path):
    """``accelerate launch --cpu`` starts one process only, so torch's own launcher starts them.

    Nearly: each process takes the means of its losses over the visible and the dynamic points of its own windows, so
    that the loss itself, a mean of these, may differ by more than the weights do.
    """
    options = ["--steps", "2", "--batch-size", "2", "--geometry", str(geometry)]
    launch = ["--nproc-per-node", "2", "--redirects", "3", "--log-dir", str(tmp_path / "logs"), "--standalone"]
    module = ["-m", "c4d_nb.correspondence.training", *command(folder, tmp_path / "two", *options)]
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

    assert main(command(folder, tmp_path / "one", *options)) == 0
    torch.manual_seed(0)
    start = DynPT(replace(SMALL, long_side=32), geometry=dust3r(5)).state_dict()
    one, two = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("one", "two"))
    moved = sum((one[name] - start[name]).square().sum() for name in start).sqrt()
    apart = sum((one[name] - two[name]).square().sum() for name in start).sqrt()
    assert apart < 0.01 * moved
    assert history(tmp_path / "two")["loss"][-1] == pytest.approx(history(tmp_path / "one")["loss"][-1], rel=0.2)
