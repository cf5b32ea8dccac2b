"""Hostile npy and png files: every field of their headers, and their bytes, replaced by what does not fit.

A file is built field by field, so that a fault in one leaves all others right: checksums too, where they are
not the fault.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.hostile.faults import DEEP, Raw

MAGIC, NPY_FIELDS = b"\x93NUMPY", ("descr", "fortran_order", "shape")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR, ALPHA = 0, 2, 6  # colour types of PNG


# ------------------------------------------------------------------------------------ npy
def npy(
    header: object, data: bytes, magic: bytes = MAGIC, version: tuple = (1, 0), size: int | None = None
) -> bytes:
    """An npy file. header: its dictionary, or its text."""
    text = header if isinstance(header, bytes) else (repr(header) + "\n").encode()
    return magic + bytes(version) + struct.pack("<H", len(text) if size is None else size) + text + data


def header_of(array: np.ndarray) -> dict[str, Any]:
    return {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}


def saved(array: np.ndarray) -> bytes:
    """The file as numpy writes it, pickled objects too."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_faults(array: np.ndarray) -> list[Raw]:
    """Every field of the header, its frame and the bytes behind it."""
    data, header, shape = array.tobytes(), header_of(array), array.shape
    deep = "(" * DEEP + ")" * DEEP
    descr = {
        "nothing": None, "a text": "text", "an empty text": "", "a number": -1, "true": True,
        "objects": "|O", "texts": "<U4", "raw bytes": "|V4", "complex": "<c8", "times": "<M8[ns]",
        "named fields": [("a", "<f4"), ("b", "<f4")], "a list": [[], []], "wider": "<f8", "longest": "<f16",
        "escape codes": "\x1b[31m",
    }  # fmt: skip
    shapes = {
        "nothing": None, "a text": "text", "a number": 7, "none": (), "negative": (-1, -1), "empty": (0, 16),
        "one axis": (array.size,), "turned": shape[1::-1] + shape[2:], "one axis more": (*shape, 2),
        "fractions": tuple(map(float, shape)), "true": (True, *shape[1:]), "huge": (10**30, 10**30),
        "large": (10**9, 10**9), "overflowing": (2**62, 2**62), "one row less": (shape[0] - 1, *shape[1:]),
        "one row more": (shape[0] + 1, *shape[1:]), "nested": ((shape,),), "many axes": (1,) * 70,
        "texts": ("12", "16"), "a list": list(shape),
    }  # fmt: skip
    orders = {"nothing": None, "a text": "text", "a number": 2, "a list": []}
    found = [
        *(Raw(("descr",), name, npy(header | {"descr": bad}, data)) for name, bad in descr.items()),
        *(Raw(("shape",), name, npy(header | {"shape": bad}, data)) for name, bad in shapes.items()),
        *(Raw(("order",), name, npy(header | {"fortran_order": bad}, data)) for name, bad in orders.items()),
    ]
    for field in NPY_FIELDS:
        rest = {key: value for key, value in header.items() if key != field}
        found += [
            Raw((field,), "missing", npy(rest, data)),
            Raw((field,), "deep", npy(repr(header | {field: "@"}).replace("'@'", deep).encode(), data)),
        ]
    whole = npy(header, data)
    headers = {
        "a list": b"[]", "no text": b"\xff\xfe\xff\n", "no end": b"{'descr': ", "code": b"__import__('os')\n",
        "deep": deep.encode(), "empty": b"", "zeros": bytes(64), "one field more": {**header, "more": 1},
    }  # fmt: skip
    found += [Raw(("header",), name, npy(bad, data)) for name, bad in headers.items()]
    return found + [
        Raw(("magic",), "another", npy(header, data, magic=b"\x93NUMPX")),
        Raw(("version",), "0.0", npy(header, data, version=(0, 0))),
        Raw(("version",), "9.9", npy(header, data, version=(9, 9))),
        Raw(("version",), "2.0 with the length of 1.0", npy(header, data, version=(2, 0))),
        Raw(("length",), "0", npy(header, data, size=0)),
        Raw(("length",), "too long", npy(header, data, size=65535)),
        Raw(("length",), "too short", npy(header, data, size=9)),
        Raw(("bytes",), "missing", npy(header, b"")),
        Raw(("bytes",), "half of them", npy(header, data[: len(data) // 2])),
        Raw(("bytes",), "one less", npy(header, data[:-1])),
        Raw(("bytes",), "seven more", npy(header, data + b"1234567")),
        *damaged(whole),
    ]


def same_numbers(array: np.ndarray) -> list[Raw]:
    """The same numbers in other clothes: byte order, order of the axes, version of the format."""
    swapped = array.astype(array.dtype.newbyteorder(">"))
    second = MAGIC + bytes((2, 0))
    text = repr(header_of(array)).encode()
    return [
        Raw(("descr",), "big end first", saved(swapped)),
        Raw(("order",), "columns first", saved(np.asfortranarray(array))),
        Raw(("version",), "2.0", second + struct.pack("<I", len(text)) + text + array.tobytes()),
    ]


def other_arrays(array: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of other types, of the same shape."""
    pair = np.zeros(array.shape, [("a", "<f4"), ("b", "<f4")])
    return {
        "objects": np.full(array.shape, {}, object),
        "texts": np.full(array.shape, "text"),
        "complex": array.astype(np.complex64),
        "named fields": pair,
        "times": np.zeros(array.shape, "<M8[s]"),
    }


def numbers_that_are_none(array: np.ndarray) -> dict[str, np.ndarray]:
    """All, or one, of the numbers NaN or infinite."""
    found = {}
    for name, bad in (("NaN", np.nan), ("infinite", np.inf), ("minus infinite", -np.inf)):
        found[f"all {name}"] = np.full_like(array, bad)
        one = array.copy()
        one[(0,) * array.ndim] = bad
        found[f"one {name}"] = one
    return found


def arrays(found: Mapping[str, np.ndarray]) -> list[Raw]:
    return [Raw(("values",), name, saved(bad)) for name, bad in found.items()]


def damaged(whole: bytes) -> list[Raw]:
    """What breaks any file."""
    return [
        Raw(("file",), "empty", b""),
        Raw(("file",), "five bytes", whole[:5]),
        Raw(("file",), "half of it", whole[: len(whole) // 2]),
        Raw(("file",), "zeros", bytes(len(whole))),
        Raw(("file",), "a text", b"these are no pixels\n"),
        Raw(("file",), "zipped", zlib.compress(whole)),
    ]


# ------------------------------------------------------------------------------------ png
def chunk(kind: bytes, data: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def png(plane: np.ndarray, changed: Mapping[str, int] | None = None, **parts: bytes) -> bytes:
    """A picture [H, W] or [H, W, 3] (red first). changed: fields of its header. parts: chunks instead."""
    rows = plane.astype(plane.dtype.newbyteorder(">")).reshape(plane.shape[0], -1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    fields = {
        "width": plane.shape[1],
        "height": plane.shape[0],
        "depth": 8 * plane.itemsize,
        "colour": COLOUR if plane.ndim == 3 else GREY,
        "compression": 0,
        "filter": 0,
        "interlace": 0,
    } | dict(changed or {})
    chunks = {
        "header": chunk(b"IHDR", struct.pack(">IIBBBBB", *fields.values())),
        "more": b"",
        "pixels": chunk(b"IDAT", pixels),
        "end": chunk(b"IEND", b""),
    } | parts
    return SIGNATURE + b"".join(chunks.values())


def png_faults(plane: np.ndarray) -> list[Raw]:
    """Every field of the header, every chunk, and pictures of other kinds with the same pixels."""
    height, width = plane.shape[:2]
    large = 2**31 - 1
    values = {
        "width": (0, width - 1, width + 1, 65536, large, 2**32 - 1),
        "height": (0, height - 1, height + 1, 65536, large, 2**32 - 1),
        "depth": (0, 1, 2, 3, 4, 8, 16, 32, 255),
        "colour": (0, 1, 2, 3, 4, 6, 255),
        "compression": (1, 255),
        "filter": (1, 255),
        "interlace": (1, 2, 255),
    }
    own = {"width": width, "height": height, "depth": 8 * plane.itemsize}
    own["colour"] = COLOUR if plane.ndim == 3 else GREY
    found = [
        Raw((field,), str(bad), png(plane, {field: bad}))
        for field, some in values.items()
        for bad in some
        if bad != own.get(field)
    ]
    whole = png(plane)
    start = whole.index(b"IDAT") - 4
    size = struct.unpack(">I", whole[start : start + 4])[0]
    pixels = whole[start + 8 : start + 8 + size]
    raw = zlib.decompress(pixels)
    odd = bytes(9 if n % (len(raw) // height) == 0 else byte for n, byte in enumerate(raw))
    broken = {
        "missing": b"",
        "half of them": chunk(b"IDAT", pixels[: size // 2]),
        "of too few rows": chunk(b"IDAT", zlib.compress(raw[: len(raw) // 2])),
        "no zlib stream": chunk(b"IDAT", b"\xff" * size),
        "with a wrong checksum": chunk(b"IDAT", pixels, wrong=1),
        "of an unknown filter": chunk(b"IDAT", zlib.compress(odd)),
        "longer than the file": struct.pack(">I", large) + b"IDAT" + pixels,
        "empty": chunk(b"IDAT", b""),
    }
    found += [Raw(("pixels",), name, png(plane, pixels=bad)) for name, bad in broken.items()]
    first = struct.pack(">IIBBBBB", width, height, own["depth"], own["colour"], 0, 0, 0)
    heads = {
        "missing": b"",
        "twice": chunk(b"IHDR", first) * 2,
        "short": chunk(b"IHDR", first[:8]),
        "with a wrong checksum": chunk(b"IHDR", first, wrong=1),
    }
    found += [Raw(("header",), name, png(plane, header=bad)) for name, bad in heads.items()]
    found += [
        Raw(("signature",), "another", b"\x88" + whole[1:]),
        Raw(("signature",), "alone", SIGNATURE),
        Raw(("EXIF",), "turned", png(plane, more=chunk(b"eXIf", _orientation(3)))),
        Raw(("EXIF",), "damaged", png(plane, more=chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"))),
        Raw(("chunk",), "unknown and needed", png(plane, more=chunk(b"ABCD", b"1"))),
        Raw(("end",), "wrong checksum", png(plane, end=chunk(b"IEND", b"", wrong=1))),
    ]
    return found + _other_kinds(plane) + damaged(whole)


def same_picture(plane: np.ndarray) -> list[Raw]:
    """The same pixels in other clothes: notes beside them, no end, several pieces."""
    whole = png(plane)
    start = whole.index(b"IDAT") - 4
    size = struct.unpack(">I", whole[start : start + 4])[0]
    pixels = whole[start + 8 : start + 8 + size]
    return [
        Raw(("chunk",), "a note", png(plane, more=chunk(b"tEXt", b"who\0\x1b[31mred"))),
        Raw(("EXIF",), "upright", png(plane, more=chunk(b"eXIf", _orientation(1)))),
        Raw(
            ("pixels",), "in two", png(plane, pixels=chunk(b"IDAT", pixels[:9]) + chunk(b"IDAT", pixels[9:]))
        ),
        Raw(("file",), "with more behind", whole + b"more"),
    ]


def _orientation(number: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", number, 0) + b"\0" * 4


def _other_kinds(plane: np.ndarray) -> list[Raw]:
    """The picture with colours, with transparency, with a palette, with more bits, and as no PNG."""
    narrow = plane if plane.dtype == np.uint8 else (plane >> 8).astype(np.uint8)
    grey = narrow if plane.ndim == 2 else narrow[..., 0]
    colours = narrow if plane.ndim == 3 else np.repeat(narrow[..., None], 3, axis=2)
    picture, found = Image.fromarray(colours), []
    kinds = {
        "a palette": picture.quantize(16),
        "two levels": Image.fromarray(grey).convert("1"),
        "transparency": picture.convert("RGBA"),
        "grey and transparency": Image.fromarray(grey).convert("LA"),
    }
    for name, kind in kinds.items():
        buffer = io.BytesIO()
        kind.save(buffer, "PNG")
        found.append(Raw(("kind",), name, buffer.getvalue()))
    if plane.ndim == 2:
        found.append(Raw(("kind",), "colours", png(colours)))
        other = plane.astype(np.uint16) if plane.dtype == np.uint8 else narrow
        found.append(Raw(("kind",), "other bits", png(other)))
    else:
        found.append(Raw(("kind",), "grey", png(grey)))
        found.append(Raw(("kind",), "16 bits", png(colours.astype(np.uint16) * 257)))
    for ending in ("GIF", "TIFF", "JPEG"):
        buffer = io.BytesIO()
        (picture if ending == "JPEG" else Image.fromarray(grey)).save(buffer, ending)
        found.append(Raw(("kind",), ending, buffer.getvalue()))
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.float32)).save(buffer, "TIFF")
    found.append(Raw(("kind",), "TIFF of fractions", buffer.getvalue()))
    return found


def pixels_of(content: bytes) -> np.ndarray:
    """The picture, red first, as OpenCV reads it."""
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return found[..., ::-1] if found.ndim == 3 else found
