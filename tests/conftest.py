"""Every annotation of the package is checked while it is tested; clips and reference data that the tests share."""

import inspect
import os
from pathlib import Path

import jaxtyping
import numba
import pytest

os.environ["TQDM_DISABLE"] = "1"


def njit_unchecked(njit=numba.njit, **options):
    """The hook wraps every function; numba can compile only what is inside."""
    return lambda function: njit(**options)(inspect.unwrap(function))


numba.njit = njit_unchecked
# Before anything imports the package. An int passes for a float, as PEP 484 says.
jaxtyping.install_import_hook("c4d_nb", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import torch  # noqa: E402

from c4d_nb import Clip, load_clip  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # two tests at a time may share two cores; small tensors gain nothing from more


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations are not checked, as for a user: the library's own message for a wrong shape comes through."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def yard() -> Clip:
    """A ball rolls through a yard, seen by a hand-held camera. Do not write to it: all tests share it."""
    from yard import yard_clip

    return yard_clip()


@pytest.fixture(scope="session")
def shipped() -> Clip:
    """The clip of the quickstart. Do not write to it: all tests share it."""
    return load_clip(ROOT / "data" / "movi_e.npz")


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder with ``vectors/`` and ``data/``: not part of the repository, so what needs it may be skipped."""
    folder = Path(os.environ.get("C4D_REFERENCE", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist (C4D_REFERENCE names its folder)")
    return folder


@pytest.fixture(scope="session")
def shared_vectors(reference_data: Path) -> Path:
    """Outputs of the published reference implementations."""
    folder = reference_data / "vectors"
    if not folder.is_dir():
        pytest.skip(f"no reference vectors: {folder} does not exist")
    return folder
