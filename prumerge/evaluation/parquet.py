"""Questions with pictures as a Parquet file in the form of the ``datasets`` library."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

_DICTIONARY_BYTES = 1 << 30  # a picture asked about several times is stored once
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encode_picture(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return the bytes of a picture file, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, rows: Iterable[tuple[bytes, dict[str, Any]]]) -> Path:
    """Write questions about pictures; the same rows give the same bytes.

    Args:
        path: Where to; folders are made.
        rows: Picture file and other columns of each question.

    Returns:
        The path.
    """
    pictures, columns = zip(*rows, strict=True)
    encoded = pa.array([{"bytes": picture, "path": None} for picture in pictures], _PICTURE)
    table = pa.Table.from_pylist(list(columns)).append_column("image", encoded)
    # With this the `datasets` library hands out pictures instead of bytes.
    features = {field.name: _feature(field.type) for field in table.schema}
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(
        table.replace_schema_metadata(notes),
        partial,
        compression="zstd",
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
    )
    partial.replace(path)
    return path


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == _PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}
