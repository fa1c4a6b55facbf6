"""TFRecord files: what is written is read, any record by itself, and one clear sentence for every damaged file."""

import struct
import weakref

import cv2
import google_crc32c
import numpy as np
import pytest

from c4d_nb.errors import InputError
from c4d_nb.kubric.tfrecord import Example, Shards, find_shards, record_spans


def example(fields):
    """The payload of a record: arrays of integers or floats, and lists of bytes."""
    message = Example()
    for key, values in fields.items():
        feature = message.features.feature[key]
        if isinstance(values, list):
            feature.bytes_list.value.extend(values)
        elif np.asarray(values).dtype.kind == "f":
            feature.float_list.value.extend(np.ravel(values).tolist())
        else:
            feature.int64_list.value.extend(np.ravel(values).astype(int).tolist())
    return message.SerializeToString()


def frame(payload):
    return b"".join(part + masked_crc(part) for part in (struct.pack("<Q", len(payload)), payload))


def masked_crc(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | (crc & 0x7FFF) << 17) + 0xA282EAD8) % 2**32)


def write_shard(path, payloads):
    path.write_bytes(b"".join(frame(payload) for payload in payloads))
    return path


def numbered(*values):
    return [example({"number": np.array([value])}) for value in values]


def numbers(shards):
    return [int(record.numbers("number")[0]) for record in shards]


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "movi_e-train.tfrecord-00000-of-00002", numbered(10, 11, 12))


def test_crc_is_castagnoli():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720's polynomial; the usual check value


def test_records_in_order_and_by_index(shard):
    shards = Shards(shard)
    assert len(shards) == 3
    assert numbers(shards) == [10, 11, 12]
    assert [numbers([shards[i]])[0] for i in (2, 0, 1)] == [12, 10, 11]
    assert shards[1].name == f"record 1 of {shard}"


def test_values(tmp_path):
    image = np.random.default_rng(0).integers(0, 2**16, (5, 7, 3), dtype=np.uint16)
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    fields = {"int": np.array([0, -1, 2**40, 65535]), "float": np.array([0.1, -2.5]), "png": [png], "none": []}
    record = Shards(write_shard(tmp_path / "a", [example(fields)]))[0]
    assert record.numbers("int").tolist() == [0, -1, 2**40, 65535]
    np.testing.assert_array_equal(record.numbers("float"), np.array([0.1, -2.5], dtype=np.float32))
    np.testing.assert_array_equal(record.images("png")[0], image)
    assert record.images("none") == []
    assert "int" in record
    assert "other" not in record


def test_an_empty_list_of_numbers_may_have_no_kind(tmp_path):
    message = Example()
    message.features.feature["empty"].SetInParent()
    record = Shards(write_shard(tmp_path / "a", [message.SerializeToString()]))[0]
    assert record.numbers("empty").shape == (0,)


def test_a_record_is_found_without_reading_those_before(tmp_path):
    """The first payload is a gigabyte of nothing, with a wrong checksum: nobody looks."""
    path, length = tmp_path / "large.tfrecord", struct.pack("<Q", 2**30)
    with open(path, "wb") as file:
        file.write(length + masked_crc(length))
        file.seek(2**30 + 4, 1)
        file.write(frame(numbered(7)[0]))
    assert len(Shards(path)) == 2
    assert numbers([Shards(path)[1]]) == [7]


def test_a_stream_holds_one_record(shard):
    alive = []
    for record in map(weakref.ref, Shards(shard)):
        alive.append(record)
        assert [reference() is None for reference in alive] == [True] * len(alive)


def test_headers_are_read_once_and_again_when_the_file_changes(shard, monkeypatch):
    first = record_spans(shard)
    assert record_spans(shard) is first
    write_shard(shard, numbered(5))
    assert numbers(Shards(shard)) == [5]


def test_folder_by_shard_number(tmp_path):
    """Some shards of a set, in the order of their numbers; other files do not count."""
    for number in (10, 2, 101):
        write_shard(tmp_path / f"movi_f-train.tfrecord-{number}-of-200", numbered(number, -number))
    for other in ("features.json", "movi_f-train.tfrecord-00003-of-00200_.gstmp", "dataset_info.json"):
        (tmp_path / other).write_text("{}")
    shards = Shards(tmp_path)
    assert numbers(shards) == [2, -2, 10, -10, 101, -101]
    assert numbers([shards[3], shards[4]]) == [-10, 101]
    assert len(shards) == 6


def test_several_files_in_the_order_given(tmp_path):
    paths = [write_shard(tmp_path / f"{n}.tfrecord", numbered(n)) for n in (3, 1, 2)]
    assert numbers(Shards(paths)) == [3, 1, 2]
    assert numbers(Shards([str(path) for path in paths[::-1]])) == [2, 1, 3]


def test_split(tmp_path):
    for number, split in enumerate(("train", "validation")):
        write_shard(tmp_path / f"movi_e-{split}.tfrecord-00000-of-00001", numbered(number))
    assert numbers(Shards(tmp_path, split="validation")) == [1]
    assert numbers(Shards(str(tmp_path), split="train")) == [0]
    with pytest.raises(InputError, match=r"^split: expected a choice, .* holds movi_e-train and movi_e-validation$"):
        Shards(tmp_path)
    with pytest.raises(InputError, match=r"^split: expected the end of movi_e-train or movi_e-validation, .* 'test'$"):
        Shards(tmp_path, split="test")


def test_no_shards(tmp_path):
    with pytest.raises(InputError, match=r"^path: expected TFRecord shards, but there are none in "):
        find_shards(tmp_path)
    with pytest.raises(InputError, match=r"^path: .* but .*/absent does not exist$"):
        find_shards(tmp_path / "absent")
    with pytest.raises(InputError, match=r"^path: .* but .*/absent does not exist$"):
        find_shards([write_shard(tmp_path / "there", []), tmp_path / "absent"])


@pytest.mark.parametrize("index", [-1, 3])
def test_index_out_of_range(shard, index):
    with pytest.raises(InputError, match=rf"^index: .* less than 3, .*00000-of-00002, but it is {index}$"):
        Shards(shard)[index]


def test_unreadable_file(shard):
    shards = Shards(shard)
    shard.unlink()
    with pytest.raises(InputError, match=r"^path: .* cannot be read \(No such file or directory\)$"):
        len(shards)


@pytest.mark.parametrize(
    ("left", "part"), [(5, "header"), (12, "payload"), (30, "payload"), (-4, "last checksum"), (-1, "last checksum")]
)
def test_cut_off(shard, left, part):
    """The third record is cut after ``left`` of its bytes, or before its end."""
    whole = shard.read_bytes()
    start = len(whole) - len(frame(numbered(12)[0]))
    shard.write_bytes(whole[: start + left if left > 0 else left])
    with pytest.raises(InputError, match=rf"^path: expected a whole .*-of-00002 ends within the {part} of record 2$"):
        Shards(shard)[0]


@pytest.mark.parametrize(("byte", "part"), [(0, "length"), (9, "length"), (14, "payload"), (-2, "payload")])
def test_changed_byte(shard, byte, part):
    whole = bytearray(shard.read_bytes())
    start = len(whole) - len(frame(numbered(12)[0]))
    whole[start + byte if byte >= 0 else byte] ^= 4
    shard.write_bytes(whole)
    with pytest.raises(InputError, match=rf"^path: .*00000-of-00002 is damaged: the {part} of record 2 contradicts"):
        Shards(shard)[2]


def test_other_formats(tmp_path):
    path = tmp_path / "movi_e.tfrecord"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r"^path: expected a TFRecord file, but .*movi_e\.tfrecord does not begin"):
        len(Shards(path))
    write_shard(path, [*numbered(1), b"\xff\xff\xff"])
    with pytest.raises(InputError, match=r"^path: expected a tf\.train\.Example in record 1 of .*movi_e\.tfrecord"):
        Shards(path)[1]


def test_wrong_fields(tmp_path):
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    fields = {"images": [png, png[: len(png) // 2]], "empty": [b""], "numbers": np.array([1])}
    record = Shards(write_shard(tmp_path / "a", [example(fields)]))[0]
    for read, key, message in (
        (record.numbers, "absent", "expected the field absent, but there is none"),
        (record.images, "absent", "expected the field absent, but there is none"),
        (record.numbers, "images", "expected numbers in images, but there are bytes"),
        (record.images, "numbers", "expected images in numbers, but there are numbers"),
        (record.images, "images", "expected a PNG image in frame 1 of images, but it cannot be decoded"),
        (record.images, "empty", "expected a PNG image in frame 0 of empty, but it cannot be decoded"),
    ):
        with pytest.raises(InputError, match=rf"^path: in record 0 of .*/a, {message}$"):
            read(key)
