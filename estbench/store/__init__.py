"""Result sets on disk: paths, schema, keys, atomic writing, reading."""

from estbench.store.atomic import StorageError, encode, write_bytes, write_json
from estbench.store.keys import REFERENCE_ESTIMATOR, Keys, key, timing_key
from estbench.store.results import CorruptRecordError, ResultSet, SetGoneError
from estbench.store.schema import (
    SCHEMA,
    VOLATILE,
    Record,
    check_payload,
    envelope,
    finite,
    numbers,
)

__all__ = [
    "REFERENCE_ESTIMATOR",
    "SCHEMA",
    "VOLATILE",
    "CorruptRecordError",
    "Keys",
    "Record",
    "ResultSet",
    "SetGoneError",
    "StorageError",
    "check_payload",
    "encode",
    "envelope",
    "finite",
    "key",
    "numbers",
    "timing_key",
    "write_bytes",
    "write_json",
]
