"""The only TFRecord schema of the product.

A shard is an ordinary TFRecord file of `tf.train.Example`s. Voxels lie on [-1, 1] and are stored as 16-bit integers
(one unit is 1/32767, half the size of float32 and finer than a 12-bit scanner). There are two kinds of record:

* `scan`: one prepared volume of domain `a` or `b`;
* `pair`: a volume of domain `a` or `b` (the source) and, as `partner`, what volumes of the other domain from other
  subjects, registered onto it, are in the mean, and how much fine detail they have; or, of a subject in both domains,
  its own other scan.

Writing and reading records needs no TensorFlow, whose import takes seconds in every worker process; only the two
functions for tf.data graphs import it. A test holds the bytes equal to TensorFlow's own.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, replacing
from cyclescan.preprocessing.detail import EVERY, WINDOWS

SCHEMA_VERSION = 2
READABLE = (1, 2)  # version 1 had no mask
READABLE_TEXT = " and ".join(map(str, READABLE))
UNIT = 32767.0
UNKNOWN = -32768  # stored for NaN


@dataclasses.dataclass(frozen=True)
class Record:
    """One prepared volume and where it came from.

    Attributes:
        voxels: float32 (depth, height, width) on [-1, 1].
        affine: (4, 4), working grid to RAS+ mm.
        domain: "a" or "b"; for a pair, the domain of `voxels`.
        domain_name: the user's name for it, such as "ciss".
        subject: pseudonymous id.
        preprocessing: the records of every step, as `preprocessing.prepare` returns them.
        partner: None for a scan; for a pair, what was registered of the other domain, like `voxels`, and NaN where it
            is unknown: beyond the field of view of the partners' scans.
        partner_subjects: pseudonymous ids of those whose scans the partner is made of; () for a scan.
        weight: confidence of the pair in (0, 1]; 1 for a scan.
        partner_detail: float32 (depth / 2, height / 2, width / 2, bands), rounded up; for a pair, how much fine detail
            the partners have around every second voxel, as the root of the mean of their `detail.energies`, NaN where
            that is unknown. None for a scan, and for pairs that were made without.
        mask: uint8 of the shape of `voxels`, 1 in the body and 0 in the air around it, see `preprocessing.body`; None
            where it is not known.
    """

    voxels: np.ndarray
    affine: np.ndarray
    domain: str
    domain_name: str
    subject: str
    preprocessing: list[dict]
    partner: np.ndarray | None = None
    partner_subjects: tuple[str, ...] = ()
    weight: float = 1.0
    partner_detail: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def kind(self) -> str:
        return "scan" if self.partner is None else "pair"

    @property
    def is_own(self) -> bool:
        """Whether it is a true pair: the partner is a scan of the same subject."""
        return self.partner_subjects == (self.subject,)


def encode(record: Record) -> bytes:
    """Serialise a record as a `tf.train.Example`."""
    example = _example_class()()
    feature = example.features.feature
    feature["schema_version"].int64_list.value.append(SCHEMA_VERSION)
    feature["shape"].int64_list.value.extend(record.voxels.shape)
    feature["affine"].float_list.value.extend(np.asarray(record.affine, np.float32).ravel())
    feature["weight"].float_list.value.append(record.weight)
    texts = {
        "kind": record.kind,
        "domain": record.domain,
        "domain_name": record.domain_name,
        "subject": record.subject,
        "preprocessing": json.dumps(record.preprocessing, sort_keys=True),
    }
    for key, text in texts.items():
        feature[key].bytes_list.value.append(text.encode())
    # one, and empty, for a scan, as it was when a partner was a single subject's scan
    feature["partner_subject"].bytes_list.value.extend(s.encode() for s in record.partner_subjects or ("",))
    feature["voxels"].bytes_list.value.append(_pack(record.voxels))
    feature["partner"].bytes_list.value.append(b"" if record.partner is None else _pack(record.partner))
    if record.partner_detail is not None:
        feature["partner_detail"].bytes_list.value.append(_pack(record.partner_detail))
    # eight voxels in a byte: a sixteenth of the bytes of the voxels themselves
    feature["mask"].bytes_list.value.append(b"" if record.mask is None else np.packbits(record.mask).tobytes())
    # deterministic: the order of a protobuf map is not defined otherwise
    return example.SerializeToString(deterministic=True)


def decode(serialized: bytes) -> Record:
    """Return the inverse of `encode`; `InputError` for anything else."""
    from google.protobuf.message import DecodeError

    try:
        feature = _example_class().FromString(serialized).features.feature
        version = feature["schema_version"].int64_list.value[0]
        if version not in READABLE:
            raise InputError(f"The record has schema version {version}; this program reads {READABLE_TEXT}.")
        shape = tuple(feature["shape"].int64_list.value)
        texts = {
            key: feature[key].bytes_list.value[0].decode()
            for key in ("kind", "domain", "domain_name", "subject", "preprocessing")
        }
        named = feature["partner_subject"].bytes_list.value
        if not named:
            raise ValueError("it lacks partner_subject")
        partner = feature["partner"].bytes_list.value[0]
        mask = feature["mask"].bytes_list.value[0] if version > 1 else b""
        detail = feature["partner_detail"].bytes_list.value[0] if "partner_detail" in feature else b""
        preprocessing = json.loads(texts["preprocessing"])
        if not isinstance(preprocessing, list):
            raise ValueError("its preprocessing is no list")
        return Record(
            voxels=_unpack(feature["voxels"].bytes_list.value[0], shape),
            affine=np.asarray(feature["affine"].float_list.value, np.float64).reshape(4, 4),
            domain=texts["domain"],
            domain_name=texts["domain_name"],
            subject=texts["subject"],
            preprocessing=preprocessing,
            partner=_unpack(partner, shape) if partner else None,
            partner_subjects=tuple(s.decode() for s in named if s),
            weight=float(feature["weight"].float_list.value[0]),
            partner_detail=_unpack(detail, _detail_shape(shape)) if detail else None,
            mask=_unpack_mask(mask, shape) if mask else None,
        )
    except InputError:
        raise
    except (DecodeError, IndexError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"This is not a record of cyclescan ({type(error).__name__}: {error}).") from error


def parse_voxels(serialized):
    """Turn a serialised scan, in a tf.data graph, into float32 (depth, height, width, 1) on [-1, 1]."""
    return _parse(serialized, ("voxels",))[0]


def parse_pair(serialized, detail: bool = False):
    """Turn a serialised pair into (voxels, partner, weight); the partner has NaN where it is unknown.

    With `detail` a fourth result is the mean energy of the partners' detail, (depth, height, width, bands), -1 where it
    is unknown.
    """
    import tensorflow as tf

    voxels, partner = _parse(serialized, ("voxels", "partner"))
    weight = tf.io.parse_single_example(serialized, {"weight": tf.io.FixedLenFeature([], tf.float32)})["weight"]
    if not detail:
        return voxels, partner, weight
    schema = {"partner_detail": tf.io.FixedLenFeature([], tf.string)}
    packed = tf.io.parse_single_example(serialized, schema)["partner_detail"]
    shape = tf.shape(voxels)[:3]
    coarse = tf.concat([(shape + EVERY - 1) // EVERY, [len(WINDOWS)]], 0)
    integers = tf.reshape(tf.io.decode_raw(packed, tf.int16), coarse)
    energies = tf.where(integers == UNKNOWN, -1.0, tf.square(tf.cast(integers, tf.float32) / UNIT))
    for axis in range(3):
        energies = tf.repeat(energies, EVERY, axis)
    return voxels, partner, weight, tf.slice(energies, [0] * 4, tf.concat([shape, [-1]], 0))


def _parse(serialized, keys):
    import tensorflow as tf

    schema = {key: tf.io.FixedLenFeature([], tf.string) for key in keys}
    schema["shape"] = tf.io.FixedLenFeature([3], tf.int64)
    features = tf.io.parse_single_example(serialized, schema)
    shape = tf.concat([features["shape"], [1]], 0)

    def unpack(packed):
        integers = tf.reshape(tf.io.decode_raw(packed, tf.int16), shape)
        return tf.where(integers == UNKNOWN, float("nan"), tf.cast(integers, tf.float32) / UNIT)

    return [unpack(features[key]) for key in keys]


def write_shard(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Write one shard under a temporary name, then rename it."""
    write_serialized(path, map(encode, records))


def write_serialized(path: str | os.PathLike, serialized: Iterable[bytes]) -> None:
    """Write a shard of records that are serialised already, under a temporary name, then rename it."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        for record in serialized:
            length = struct.pack("<Q", len(record))
            stream.write(length + _masked_crc(length))
            stream.write(record + _masked_crc(record))


def shards(folder: str | os.PathLike, domain: str | None = None) -> list[Path]:
    """Return the shards of one folder in order, of one domain or of all."""
    return sorted(Path(folder).glob(f"{domain}-*.tfrecord" if domain else "*.tfrecord"))


def read_info(folder: str | os.PathLike) -> dict:
    """Return the description of a data set, dataset.json; `InputError` when the folder is none."""
    path = Path(folder) / "dataset.json"
    if not path.exists():
        raise InputError(f"{folder} is not a data set: it has no dataset.json (make one with `data_prep build`).")
    return read_json(path)


def entries(folder: str | os.PathLike, split: str, domain: str) -> list[tuple[str, int, int]]:
    """Return (shard, offset, length) of every record of a domain in `folder`/`split`, which may also be "pairs".

    Raises:
        InputError: there are none, or a shard is truncated.
    """
    found = []
    for shard in shards(Path(folder) / split, domain):
        found += [(str(shard), offset, length) for offset, length in index(shard)]
    if not found:
        raise InputError(f"{folder} has no records of domain {domain} in {split}.")
    return found


def subjects(entries: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return the subject of each record, of whose voxels nothing is read: they are stepped over.

    Raises:
        InputError: a shard cannot be read, or holds something else.
    """
    return [_subject_at(*entry) for entry in entries]


def _subject_at(path: str, offset: int, length: int) -> str:
    """Read the field `subject`, by protobuf's wire format: in the example the features, in these a map of names."""
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            _, end = _field(stream)  # the features
            while stream.tell() < min(end, offset + length):
                _, following = _field(stream)
                name_at, name_end = _field(stream)
                if stream.read(name_end - name_at) == b"subject":
                    for _ in ("value", "bytes_list", "its first text"):
                        start, stop = _field(stream)
                    return stream.read(stop - start).decode()
                stream.seek(following)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, IndexError):
        pass
    raise InputError(f"{path} holds something that is not a record of cyclescan: it names no subject.")


def _field(stream) -> tuple[int, int]:
    """Return where the content of the field at the stream begins, where the stream then is, and where it ends."""
    if stream.read(1)[0] & 7 != 2:
        raise ValueError("not length-delimited")
    size, shift = 0, 0
    while (byte := stream.read(1)[0]) & 128:
        size, shift = size | (byte & 127) << shift, shift + 7
    return stream.tell(), stream.tell() + (size | byte << shift)


def checksums(entries: Iterable[tuple[str, int, int]]) -> list[bytes]:
    """Return the checksum of each record, 4 bytes, which stands behind it."""
    return [read_at(path, offset + length, 4) for path, offset, length in entries]


def fingerprint(entries: Iterable[tuple[str, int, int]], checksums: Iterable[bytes]) -> str:
    """Return the SHA-256 of the lengths and checksums of records in their order: others mean other data, or another
    order.
    """
    digest = hashlib.sha256()
    for (_, _, length), checksum in zip(entries, checksums, strict=True):
        digest.update(struct.pack("<Q", length) + checksum)
    return digest.hexdigest()


def index(path: str | os.PathLike) -> list[tuple[int, int]]:
    """Return (offset, length) in bytes of each serialised record in a shard, from the framing alone.

    The framing is TensorFlow's: length (uint64), its CRC (uint32), the data, its CRC (uint32).

    Raises:
        InputError: the shard ends inside a record.
    """
    size = os.path.getsize(path)
    entries: list[tuple] = []
    offset = 0
    with open(path, "rb") as stream:
        while offset < size:
            stream.seek(offset)
            head = stream.read(12)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else size
            if offset + 16 + length > size:
                raise InputError(f"{path} is truncated: its record {len(entries)} ends beyond the file.")
            entries.append((offset + 12, length))
            offset += 16 + length
    return entries


def frames(path: str | os.PathLike, start: int = 0) -> Iterator[bytes]:
    """Yield the records of a TFRecord file with their framing, from byte `start` to the first that is cut off or
    damaged.
    """
    with open(path, "rb") as stream:
        stream.seek(start)
        while len(head := stream.read(12)) == 12 and head[8:] == _masked_crc(head[:8]):
            length = struct.unpack("<Q", head[:8])[0]
            rest = stream.read(length + 4)
            if len(rest) < length + 4 or rest[-4:] != _masked_crc(rest[:-4]):
                return
            yield head + rest


def read_at(path: str | os.PathLike, offset: int, length: int) -> bytes:
    """Return the bytes of one serialised record.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            return stream.read(length)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_unchanged(path: str | os.PathLike, offset: int, length: int, checksum: bytes) -> bytes:
    """Read as `read_at` does, a record that had this checksum earlier.

    Raises:
        InputError: the file cannot be read, or holds something else now.
    """
    framed = read_at(path, offset, length + len(checksum))
    serialized = framed[:length]
    if framed[length:] != checksum or _masked_crc(serialized) != checksum:
        raise InputError(f"{path} was replaced or damaged while it was in use; begin again, or bring back what it was.")
    return serialized


def read_shard(path: str | os.PathLike) -> Iterator[Record]:
    """Yield the records of a shard, one after the other, each checked against its checksums.

    Raises:
        InputError: the shard ends inside a record, a checksum is wrong, or the bytes are no record of this schema.
    """
    for number, (offset, length) in enumerate(index(path)):
        framed = read_at(path, offset - 12, length + 16)
        head, crc_of_head, serialized, crc = framed[:8], framed[8:12], framed[12:-4], framed[-4:]
        if _masked_crc(head) != crc_of_head or _masked_crc(serialized) != crc:
            raise InputError(f"{path} is damaged: the checksum of its record {number} is wrong.")
        yield decode(serialized)


def _masked_crc(data: bytes) -> bytes:
    """The CRC-32C of `data` as TFRecord files store it: rotated and offset."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _example_class():
    """The message class of `tf.train.Example`, built from its definition (tensorflow/core/example/example.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    proto = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(parent, name, *fields):
        entry = parent.add(name=name)
        for number, (field, repeated, kind) in enumerate(fields, 1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            typed = {"type_name": kind} if isinstance(kind, str) else {"type": kind}
            entry.field.add(name=field, number=number, label=label, **typed)
        return entry

    lists = (
        ("BytesList", "bytes_list", kinds.TYPE_BYTES),
        ("FloatList", "float_list", kinds.TYPE_FLOAT),
        ("Int64List", "int64_list", kinds.TYPE_INT64),
    )
    for name, _, kind in lists:
        message(proto.message_type, name, ("value", True, kind))
    one_of = [(field, False, f".tensorflow.{name}") for name, field, _ in lists]
    feature = message(proto.message_type, "Feature", *one_of)
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(proto.message_type, "Features", ("feature", True, ".tensorflow.Features.FeatureEntry"))
    pair = (("key", False, kinds.TYPE_STRING), ("value", False, ".tensorflow.Feature"))
    message(features.nested_type, "FeatureEntry", *pair).options.map_entry = True
    message(proto.message_type, "Example", ("features", False, ".tensorflow.Features"))

    pool = descriptor_pool.DescriptorPool()  # a private one: TensorFlow registers the same names in the default pool
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _pack(voxels: np.ndarray) -> bytes:
    packed = np.rint(np.clip(voxels, -1, 1) * UNIT)
    return np.where(np.isnan(packed), UNKNOWN, packed).astype("<i2").tobytes()


def _unpack(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    integers = np.frombuffer(packed, "<i2").reshape(shape)
    return np.where(integers == UNKNOWN, np.float32(np.nan), integers.astype(np.float32) / np.float32(UNIT))


def _detail_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(-(-edge // EVERY) for edge in shape), len(WINDOWS))


def _unpack_mask(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    voxels = int(np.prod(shape))
    if len(packed) != -(-voxels // 8):
        raise ValueError(f"a mask of {len(packed)} bytes for {voxels} voxels")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=voxels).reshape(shape)
