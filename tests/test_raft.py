"""RAFT behind ``method="raft"``: sizes, units, batches, and what is said where torchvision or its weights are missing.

What torchvision itself has to do is skipped where it is not installed or of another build than torch.
"""

import hashlib
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torch

from c4d_nb.camera import pixel_grid
from c4d_nb.correspondence import raft
from c4d_nb.correspondence.flow import estimate_flow, estimate_flows
from c4d_nb.correspondence.raft import load_raft, raft_flow
from c4d_nb.errors import InputError

URL = "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth"


class Stub(torch.nn.Module):
    """Tells ``flow`` of its own pixels, and remembers what it was shown."""

    def __init__(self, flow=lambda uv: torch.tensor([6.0, -3.0]).expand_as(uv)):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.flow, self.shown = flow, []

    def forward(self, images_1, images_2, num_flow_updates):
        self.shown.append((images_1, images_2))
        flow = self.flow(pixel_grid(*images_1.shape[-2:])).permute(2, 0, 1)
        return [torch.full_like(flow, torch.nan), flow.expand(len(images_1), -1, -1, -1)]


@pytest.fixture
def torchvision_models():
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no torchvision that fits this torch ({error})")
    return models


@pytest.fixture
def stub(monkeypatch):
    network = Stub()
    monkeypatch.setattr(raft, "_default_network", lambda: network)
    return network


def images(generator, *shape):
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(128, 160, (128, 160)), (130, 161, (136, 168)), (50, 70, (152, 216)), (127, 300, (256, 600)), (1, 9, (128, 1152))],
)
def test_flow_is_in_pixels_of_the_frames_at_any_size(generator, height, width, shown):
    """Enlarged threefold, 6 px of what the network sees are 2 px of the frame."""
    network = Stub()
    frames = images(generator, 2, height, width)
    flow = raft_flow(frames, frames, network=network)
    assert flow.shape == (2, height, width, 2)
    assert network.shown[0][0].shape == (2, 3, *shown)
    zoom = -(-128 // min(height, width))
    torch.testing.assert_close(flow, (torch.tensor([6.0, -3.0]) / zoom).expand_as(flow))


@pytest.mark.parametrize("size", [(130, 161), (50, 70)])
def test_flow_stays_where_it_was_seen(generator, size):
    """Where flow is the pixel's own position (from the image's corner), it is so before and after enlarging."""
    frames = images(generator, 1, *size)
    flow = raft_flow(frames, frames, network=Stub(lambda uv: uv + 0.5))
    torch.testing.assert_close(flow[0], pixel_grid(*size) + 0.5)


def test_network_sees_rgb_in_the_unit_range(generator):
    network = Stub()
    frames = images(generator, 1, 128, 136)
    raft_flow(frames, 255 - frames, network=network)
    first, second = network.shown[0]
    torch.testing.assert_close(first[0, 1, 5, 7], frames[0, 5, 7, 1] / 127.5 - 1)
    torch.testing.assert_close(second, -first)


def test_many_pairs_are_seen_some_at_a_time(generator, monkeypatch):
    monkeypatch.setattr(raft, "_MAX_CORRELATIONS", 2 * (16 * 17) ** 2)
    network = Stub()
    frames = images(generator, 5, 128, 136)
    assert raft_flow(frames, frames, network=network).shape == (5, 128, 136, 2)
    assert [len(first) for first, _ in network.shown] == [2, 2, 1]


def test_method_raft_of_one_pair_and_of_edges(generator, stub):
    """Ten edges, more than are handed over at once, each with its own two frames."""
    frames = images(generator, 5, 128, 128)
    assert estimate_flow(frames[0], frames[1], method="raft")[3, 4].tolist() == [6, -3]
    stub.shown.clear()
    edges = torch.tensor([[n, m] for n in range(5) for m in range(5) if (n - m) % 5 in (1, 4)])
    flows, valid = estimate_flows(frames, edges, method="raft")
    assert flows.shape == (10, 128, 128, 2)
    assert not valid.any()  # there and back are the same
    for side in (0, 1):
        seen = torch.cat([pair[side] for pair in stub.shown])
        torch.testing.assert_close(seen, frames[edges[:, side]].permute(0, 3, 1, 2) / 127.5 - 1)


@pytest.mark.usefixtures("unchecked")
def test_frames_of_different_sizes_are_refused(generator):
    with pytest.raises(InputError, match=r"^frames_2: expected shape \(1, 128, 128, 3\), but it is \(1, 128, 136, 3\)"):
        raft_flow(images(generator, 1, 128, 128), images(generator, 1, 128, 136), network=Stub())


def test_unknown_weights_are_refused():
    with pytest.raises(InputError, match=r"^name: expected one of raft_large, raft_small, but it is 'raft_huge'"):
        load_raft("raft_huge")


def test_torchvision_is_imported_on_request_only():
    code = (
        "import sys, c4d_nb, c4d_nb.reconstruct, c4d_nb.correspondence.flow as flow, torch;"
        "frame = torch.zeros(32, 32, 3, dtype=torch.uint8); flow.estimate_flow(frame, frame);"
        "print({'torchvision', 'transformers', 'c4d_nb.correspondence.raft'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"


def test_missing_torchvision_is_named(generator, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    frame = images(generator, 40, 40)
    with pytest.raises(InputError, match=r'^method: expected torchvision, .* pip install "c4d_nb\[raft\]"$'):
        estimate_flow(frame, frame, method="raft")


def test_torchvision_of_another_build_is_named(monkeypatch, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^method: expected a torchvision that fits torch .*operator does not exist"):
        load_raft()


def test_offline_says_what_to_put_where(monkeypatch, tmp_path, caplog):
    def offline(url, dst, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=rf"^method: .*\(URLError\): download {URL} and put it there$") as caught:
        raft._find_weights(URL)
    assert str(tmp_path / "checkpoints") in str(caught.value)
    assert "no licence of their own" in caplog.text


def test_download_is_told_once_and_checked(monkeypatch, tmp_path, caplog):
    content = b"weights"
    url = f"https://example.org/raft-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, dst, **_: Path(dst).write_bytes(content))
    path = raft._find_weights(url)
    assert path.read_bytes() == content
    assert path == raft._find_weights(url)
    assert caplog.text.count("no licence of their own") == 1
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"^method: expected a sha256 of .* delete it$"):
        raft._find_weights(url)


def test_published_names_are_those_of_torchvision(torchvision_models):
    files = {name: torchvision_models.get_weight(weights).url for name, weights in raft.PUBLISHED.items()}
    assert files["raft_large"] == URL
    assert files["raft_small"].rsplit("/", 1)[1] == "raft_small_C_T_V2-01064c6d.pth"


def test_frames_are_prepared_as_by_torchvision(torchvision_models, generator):
    network = Stub()
    frames = images(generator, 2, 1, 128, 136)
    raft_flow(*frames, network=network)
    transforms = torchvision_models.get_weight(raft.PUBLISHED["raft_large"]).transforms()
    torch.testing.assert_close(network.shown[0], transforms(*frames.permute(0, 1, 4, 2, 3)))


def test_weights_are_read_into_the_network(torchvision_models, monkeypatch, tmp_path):
    """A random network's weights in the place of the published ones."""
    torch.manual_seed(0)
    saved = torchvision_models.get_model("raft_small").state_dict()
    torch.save(saved, tmp_path / "weights.pth")
    monkeypatch.setattr(raft, "_find_weights", lambda url: tmp_path / "weights.pth")
    network = load_raft("raft_small", device="cpu")
    assert not network.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, saved[name])


@pytest.mark.parametrize("size", [(128, 128), (60, 70)])
def test_random_raft_runs_and_batches_change_nothing(torchvision_models, generator, size):
    torch.manual_seed(0)
    network = torchvision_models.get_model("raft_small").eval()
    first, second = images(generator, 2, 2, *size)
    flow = raft_flow(first, second, network=network, updates=2)
    assert flow.shape == (2, *size, 2)
    assert flow.isfinite().all()
    assert flow.abs().max() > 0
    assert not flow.requires_grad
    alone = [raft_flow(a[None], b[None], network=network, updates=2)[0] for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(flow, torch.stack(alone), rtol=1e-3, atol=1e-3)
