"""What kind of file some bytes are, and what to do with one of the wrong kind."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass

__all__ = ["FileType", "file_type"]


@dataclass(frozen=True)
class FileType:
    """A kind of file.

    Attributes:
      name: A phrase: "a gzip archive". "" if the kind is not known.
      remedy: What to do to get at the file that was meant; "" if that depends on the reader.
    """

    name: str
    remedy: str = ""


AGAIN = "download it again"
UNPACK = "unpack it and name the file inside"

EMPTY = FileType("empty", AGAIN)
WEB_PAGE = FileType(
    "a web page (HTML)", 'download the raw file ("Raw" or "Download" on the page), not the page'
)
LFS_POINTER = FileType(
    "a Git LFS pointer, which stands for a file that was not fetched", "run: git lfs pull"
)
NPZ = FileType("an .npz")
BROKEN_ZIP = FileType("a damaged or truncated zip archive or .npz", AGAIN)
TORCH = FileType("a torch checkpoint")
SAFETENSORS = FileType("a safetensors file")
HDF5 = FileType("an HDF5 file")
TENSORFLOW = FileType("part of a TensorFlow checkpoint")
PICKLE = FileType("a pickle")
LINE_ENDS = FileType(
    "a pickle whose line ends were converted (LF to CRLF)",
    "download it again in binary mode (git: core.autocrlf=false; FTP: binary)",
)
SAVED_AS_TEXT = FileType(
    "a pickle that was saved as text (UTF-8)", "download it again in binary mode"
)
JSON = FileType("a JSON file")
TEXT = FileType("a text file")
UNKNOWN = FileType("")

_STARTS = (
    (b"version https://git-lfs.github.com/spec/", LFS_POINTER),
    (b"\x1f\x8b", FileType("a gzip archive", UNPACK)),
    (b"\xfd7zXZ\0", FileType("an xz archive", UNPACK)),
    (b"\x28\xb5\x2f\xfd", FileType("a zstd archive", UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", FileType("a 7z archive", UNPACK)),
    (b"Rar!\x1a\x07", FileType("a RAR archive", UNPACK)),
    (b"%PDF-", FileType("a PDF")),
    (b"PAR1\x15", FileType("a Parquet file")),
    (b"\x93NUMPY", FileType("a single NumPy array (.npy)")),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"model_checkpoint_path:", TENSORFLOW),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", TORCH),  # as torch wrote it before 1.6
)
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)\b", re.IGNORECASE)
_SAVED_AS_TEXT = re.compile(rb"(\xef\xbf\xbd|\xc2\x80|\xe2\x82\xac)[\x02-\x05]")
_JSON = re.compile(rb'\s*(\{\s*["}]|\[\s*["\[{\]])')
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\]q\0|\([ld]p\d+\r?\n|c(numpy|copy_reg)\S*\r?\n")
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # how a TensorFlow checkpoint's index ends
_TENSORFLOW_NAME = re.compile(r"\.(data-\d{5}-of-\d{5}|ckpt-\d+\.meta)$")


def file_type(content: bytes, name: str = "") -> FileType:
    """Return what kind of file it is by its first bytes, and a few by the last ones or the name.

    Args:
      content: All of the file: a zip archive is told by what it holds.
      name: The file's name, for the kinds that have no bytes of their own.
    """
    if not content:
        return EMPTY
    if content.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_type(content)
    for start, found in _STARTS:
        if content.startswith(start):
            return found
    if _BZIP2.match(content):
        return FileType("a bzip2 archive", UNPACK)
    if _SAVED_AS_TEXT.match(content):
        return SAVED_AS_TEXT
    if _HTML.match(content[:4096]):
        return WEB_PAGE
    if content[257:263] in (b"ustar\0", b"ustar "):
        return FileType("a tar archive", UNPACK)
    if content.endswith(_TABLE_END) or _TENSORFLOW_NAME.search(name):
        return TENSORFLOW
    if content[8:10] in (b'{"', b"{}") and int.from_bytes(content[:8], "little") < 1 << 27:
        return SAFETENSORS
    if _PICKLE.match(content):
        # A pickle has bare line feeds, after the names it asks for or by chance among its numbers.
        converted = b"\r\n" in content and content.count(b"\n") == content.count(b"\r\n")
        return LINE_ENDS if converted else PICKLE
    if re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", content[:4096]):
        return UNKNOWN
    if content[:4096].lstrip().startswith(b"<?xml"):
        return FileType("an XML document (perhaps a server's error message)", AGAIN)
    return JSON if _JSON.match(content[:4096]) else TEXT


def _zip_type(content: bytes) -> FileType:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except Exception:  # whatever a damaged archive stumbles over
        return BROKEN_ZIP
    if any(re.search(r"(^|/)data\.pkl$", name) for name in names):
        return TORCH
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    return FileType("a zip archive", UNPACK)
