"""Pickles of arrays come through exactly; anything else is refused before it can do anything."""

import os
import pickle
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from c4d_nb.datasets.pickles import read_pickle
from c4d_nb.errors import InputError

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from(["bool", "u1", "<i4", ">i8", "<f4", ">f8", "f2", "S3"])
CONTENT = {
    "goat": {"video": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), "n": np.float32(2.5), "names": ("a", b"\xff")},
    "list": [np.zeros((2, 0)), np.array([b"ab", b"c"]), np.asfortranarray(np.arange(6.0).reshape(2, 3)), None, 7, True],
}


def written(path, content, protocol: int = 4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def assert_same(found, expected):
    if isinstance(expected, np.ndarray | np.generic):
        assert np.asarray(found).dtype == expected.dtype or not isinstance(expected, np.ndarray)
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_plain_containers(tmp_path, protocol):
    assert_same(read_pickle(written(tmp_path / "a.pkl", CONTENT, protocol)), CONTENT)


def test_modules_of_older_numpy(tmp_path):
    """Releases made before numpy 2 name numpy.core."""
    old = pickle.dumps(np.arange(3.0), protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in old
    (tmp_path / "old.pkl").write_bytes(old)
    np.testing.assert_array_equal(read_pickle(tmp_path / "old.pkl"), np.arange(3.0))


@FEW
@given(data=st.data(), dtype=DTYPES, protocol=st.integers(2, 5))
def test_every_array_comes_through(tmp_path, data, dtype, protocol):
    array = data.draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    found = read_pickle(written(tmp_path / "a.pkl", {"x": array}, protocol))["x"]
    np.testing.assert_array_equal(np.asarray(found), array)
    assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")  # numpy may swap bytes, too


class Runs:
    """Unpickled, it calls something."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_runs_nothing(tmp_path, protocol):
    mark = tmp_path / "was_here"
    calls = (os.system, f"touch {mark}"), (eval, f"open({str(mark)!r}, 'w')"), (os.mkdir, str(mark)), (open, str(mark))
    for call in calls:
        path = written(tmp_path / "evil.pkl", {"goat": {"video": Runs(*call)}}, protocol)
        with pytest.raises(
            InputError, match=r"^path: expected a pickle of arrays .*evil\.pkl: it asks for .* refused$"
        ):
            read_pickle(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(mark))))
    assert mark.exists()  # it would have, without the restriction


def test_numpy_itself_is_no_way_out(tmp_path):
    """Objects in arrays, structured dtypes, other classes of numpy, methods by a dotted name."""
    (tmp_path / "x.npy").write_bytes(b"")
    for content in (
        np.array([{}], dtype=object),
        np.zeros(1, dtype=[("a", "f4")]),
        np.zeros(1, dtype="M8[s]"),
        Runs(np.load, str(tmp_path / "x.npy")),
        np.random.default_rng(0),
        range(3),
        {1},
    ):
        path = written(tmp_path / "odd.pkl", content)
        if isinstance(content, set):
            assert read_pickle(path) == content
            continue
        with pytest.raises(InputError, match=r"^path: expected a pickle of arrays"):
            read_pickle(path)
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93\x8c\x01x\x85R."
    (tmp_path / "dotted.pkl").write_bytes(dotted)
    with pytest.raises(InputError, match=r"asks for numpy\.ndarray\.tofile"):
        read_pickle(tmp_path / "dotted.pkl")


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def name(module: str, attribute: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute)) + b"\x93"


def test_what_may_be_called_cannot_be_changed(tmp_path):
    """BUILD on a function, NEWOBJ of it, and an array whose bytes are too few, too many or no bytes."""
    dtype = name("numpy", "dtype") + b"\x8c\x02f8\x85R"
    array = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"

    def state(shape: bytes, raw: bytes) -> bytes:
        return array + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"

    good = state(b"K\x01\x85", b"C\x08" + struct.pack("<d", 2.5))
    (tmp_path / "good.pkl").write_bytes(opcodes(good))
    assert read_pickle(tmp_path / "good.pkl").tolist() == [2.5]
    for bad in (
        name("numpy", "dtype") + b"}b",
        name("numpy", "dtype") + b")\x81",
        name("numpy", "ndarray") + b")R",
        state(b"K\x02\x85", b"C\x08" + bytes(8)),
        state(b"K\x01\x85", b"C\x10" + bytes(16)),
        state(b"J\xff\xff\xff\xff\x85", b"C\x08" + bytes(8)),
        state(b"K\x01\x85", b"]"),
        name("_codecs", "encode") + b"\x8c\x01x\x8c\x03hex\x86R",
    ):
        (tmp_path / "bad.pkl").write_bytes(opcodes(bad))
        with pytest.raises(InputError, match=r"^path: expected a pickle of arrays"):
            read_pickle(tmp_path / "bad.pkl")


@FEW
@given(data=st.data())
def test_fuzzed_pickles(tmp_path, data):
    """Cut off or with bytes changed: the content or an InputError, never anything else."""
    whole = pickle.dumps(CONTENT)
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, max(len(broken) - 1, 0)), max_size=4)):
        if broken:
            broken[place] = data.draw(st.integers(0, 255))
    (tmp_path / "fuzz.pkl").write_bytes(broken)
    with suppress(InputError):
        read_pickle(tmp_path / "fuzz.pkl")


def test_absent_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match=r"^path: cannot read .*nowhere"):
        read_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(InputError, match=r"^path: cannot read "):
        read_pickle(tmp_path)
    (tmp_path / "text.pkl").write_text("no pickle")
    with pytest.raises(InputError, match=r"^path: expected a pickle"):
        read_pickle(tmp_path / "text.pkl")
