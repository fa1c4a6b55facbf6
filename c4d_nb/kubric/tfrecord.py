"""Records of TFRecord shards, and the ``tf.train.Example`` in each, without TensorFlow.

A record is its length (uint64), the checksum of these eight bytes, the payload and the checksum of the payload, all
little-endian; a checksum is a masked CRC-32C (TensorFlow, ``core/lib/io/record_writer.h``). A file is its records, one
after the other. Any record is found by hopping over those before it, from header to header.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message

from c4d_nb.errors import InputError

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
SHARD_NAME = re.compile(r"(?P<set>.+)\.tfrecord(?:-(?P<number>\d+)-of-\d+)?")
"""``movi_e-validation.tfrecord-00000-of-00064``; a download that is still under way is called something else."""

EXAMPLE = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".tensorflow.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".tensorflow.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".tensorflow.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".tensorflow.Features.FeatureEntry" }
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type_name: ".tensorflow.Feature" }
  }
}
message_type { name: "Example" field { name: "features" number: 1 type_name: ".tensorflow.Features" } }
"""
"""TensorFlow's ``core/example/example.proto`` and ``feature.proto``, as a file descriptor in text form."""

# A pool of its own: TensorFlow, if it is there, has registered these names in the default one.
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(text_format.Parse(EXAMPLE, descriptor_pb2.FileDescriptorProto()).SerializeToString())
Example = message_factory.GetMessageClass(_pool.FindMessageTypeByName("tensorflow.Example"))

ShardPath = str | Path | Sequence[str | Path]


@dataclass(frozen=True, eq=False)
class Record:
    """One example and where it came from, for messages. Fields are called as in TensorFlow: ``camera/positions``."""

    name: str
    example: Message

    def __contains__(self, key: str) -> bool:
        return key in self.example.features.feature

    def numbers(self, key: str) -> np.ndarray:
        """A list of numbers: float32 or int64, flat."""
        kind, values = self._values(key)
        if kind == "bytes_list":
            raise self.fault(f"expected numbers in {key}, but there are bytes")
        return np.array(values, dtype=np.int64 if kind == "int64_list" else np.float32)

    def images(self, key: str) -> list[np.ndarray]:
        """A list of PNG images: (h, w, channels), in the order red, green, blue, of 8 or 16 bits."""
        kind, values = self._values(key)
        if kind not in ("bytes_list", None):
            raise self.fault(f"expected images in {key}, but there are numbers")
        images = []
        for number, value in enumerate(values):
            image = _decode_png(value)
            if image is None:
                raise self.fault(f"expected a PNG image in frame {number} of {key}, but it cannot be decoded")
            images.append(image)
        return images

    def fault(self, message: str) -> InputError:
        return InputError(f"path: in {self.name}, {message}")

    def _values(self, key: str) -> tuple[str | None, Sequence]:
        if key not in self:
            raise self.fault(f"expected the field {key}, but there is none")
        feature = self.example.features.feature[key]
        kind = feature.WhichOneof("kind")
        return kind, getattr(feature, kind).value if kind else ()


class Shards:
    """The records of a data set, in the order of its shards, read one at a time when they are asked for.

    ``path`` is one file, several in the order given, or a folder with the shards of one data set; not all of them
    need be there. A folder that mixes splits needs ``split``, the end of their names: "train", "validation", "test".

    Raises ``InputError`` for a path without shards, and, when a shard is first used, for one that is cut off or not a
    TFRecord file. Any change of a payload is found when it is read.
    """

    def __init__(self, path: ShardPath, *, split: str | None = None) -> None:
        self.path = path
        self.files = find_shards(path, split)

    def __len__(self) -> int:
        return sum(len(record_spans(file)) for file in self.files)

    def __getitem__(self, index: int) -> Record:
        before = 0
        for file in self.files:
            spans = record_spans(file)
            if 0 <= index - before < len(spans):
                return _read(file, index - before)
            before += len(spans)
        raise InputError(
            f"index: expected 0 or more and less than {before}, the number of records in {self.path}, but it is {index}"
        )

    def __iter__(self) -> Iterator[Record]:
        return (_read(file, number) for file in self.files for number in range(len(record_spans(file))))


def find_shards(path: ShardPath, split: str | None = None) -> tuple[Path, ...]:
    """The files that ``Shards`` reads; those of a folder in the order of their numbers."""
    if isinstance(path, (str, Path)):
        path = Path(path)
        files = _in_folder(path) if path.is_dir() else [path]
    else:
        files = [Path(file) for file in path]
    if not files:
        raise InputError(f"path: expected TFRecord shards, but there are none in {path}")
    for file in files:
        if not file.is_file():
            raise InputError(f"path: expected TFRecord shards or their folder, but {file} does not exist")
    sets = {_set_name(file) for file in files}
    chosen = {name for name in sets if split is None or name.endswith(f"-{split}")}
    if not chosen:
        raise InputError(f"split: expected the end of {' or '.join(sorted(sets))}, but it is {split!r}")
    if len(chosen) > 1 and isinstance(path, Path):
        raise InputError(f"split: expected a choice, because {path} holds {' and '.join(sorted(chosen))}")
    return tuple(file for file in files if _set_name(file) in chosen)


def record_spans(file: Path) -> tuple[tuple[int, int], ...]:
    """(first byte, length) of every payload of a file. Only headers are read, and only once while the file stays."""
    with _readable(file):
        status = file.stat()
        return _hop(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hop(file: Path, size: int, modified: int) -> tuple[tuple[int, int], ...]:
    spans, position = [], 0
    with open(file, "rb") as stream:
        while position < size:
            stream.seek(position)
            header = stream.read(HEADER.size)
            if len(header) < HEADER.size:
                raise _cut_off(file, len(spans), "header")
            length, checksum = HEADER.unpack(header)
            if masked_crc(header[:8]) != checksum:
                raise _damaged(file, len(spans), "length")
            spans.append((position + HEADER.size, length))
            end = position + HEADER.size + length
            position = end + FOOTER.size
            if position > size:
                raise _cut_off(file, len(spans) - 1, "payload" if end > size else "last checksum")
    return tuple(spans)


def _read(file: Path, number: int) -> Record:
    start, length = record_spans(file)[number]
    with _readable(file), open(file, "rb") as stream:
        stream.seek(start)
        payload = stream.read(length)
        (checksum,) = FOOTER.unpack(stream.read(FOOTER.size))
    if masked_crc(payload) != checksum:
        raise _damaged(file, number, "payload")
    name = f"record {number} of {file}"
    try:
        return Record(name, Example.FromString(payload))
    except DecodeError as error:
        raise InputError(f"path: expected a tf.train.Example in {name}, but it is something else") from error


def _decode_png(data: bytes) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    # OpenCV: it alone reads three channels of 16 bits; in the order blue, green, red.
    return None if image is None else np.atleast_3d(image)[..., ::-1]


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _in_folder(folder: Path) -> list[Path]:
    names = [(match, file) for file in folder.iterdir() if (match := SHARD_NAME.fullmatch(file.name))]
    return [file for _, file in sorted(names, key=lambda pair: (pair[0]["set"], int(pair[0]["number"] or 0)))]


def _set_name(file: Path) -> str:
    match = SHARD_NAME.fullmatch(file.name)
    return match["set"] if match else file.name


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"path: {file} cannot be read ({error.strerror})") from error


def _cut_off(file: Path, number: int, part: str) -> InputError:
    return InputError(f"path: expected a whole TFRecord file, but {file} ends within the {part} of record {number}")


def _damaged(file: Path, number: int, part: str) -> InputError:
    if part == "length" and number == 0:
        return InputError(f"path: expected a TFRecord file, but {file} does not begin as one (checksum of its length)")
    return InputError(f"path: {file} is damaged: the {part} of record {number} contradicts its checksum")
