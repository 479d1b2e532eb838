"""From what a graph gives to the columns of a table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.errors import ShardError
from pipeline.tables.schema import PICTURE


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`, in its order and types.

    Absent columns become null and unknown ones are dropped. A plain binary column is taken as the bytes of a picture
    where `schema` has one, no bytes as none, Ray's one-dimensional tensors become lists, and NaN is a null of int32 and
    float32.

    Raises:
        ShardError: a required column is absent or holds nulls, or a column cannot be cast.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = _cast(table[field.name], field)
        else:
            column = pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        if _is_required(field) and column.null_count:
            raise ShardError(
                f"column {field.name!r}: {column.null_count} of {table.num_rows} rows have no value, but every row "
                f"needs one; the table has {table.column_names}"
            )
        columns.append(column)
    return pa.table(columns, schema=schema)


def object_column(values: Iterable[object]) -> np.ndarray:
    """A column of Python objects; numpy would make one array of rows that happen to have equal lengths."""
    rows = list(values)
    column = np.empty(len(rows), object)
    for row, value in enumerate(rows):
        column[row] = value
    return column


def _is_required(field: pa.Field) -> bool:
    return b"required" in (field.metadata or {})


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        if pa.types.is_struct(column.type):  # a ragged tensor: its numbers, and a shape that the list's length repeats
            column = pa.chunked_array([chunk.field("data") for chunk in column.chunks], column.type.field("data").type)
    try:
        if field.type == PICTURE and pa.types.is_binary(column.type):
            return pa.chunked_array([_picture(chunk) for chunk in column.chunks], PICTURE)
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
            return column.cast(field.type.value_type).dictionary_encode()
        if field.type in (pa.int32(), pa.float32()) and pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)  # numpy has no other null for its numbers
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise ShardError(f"column {field.name!r}: {column.type} cannot become {field.type} ({error})") from error


def _picture(encoded: pa.Array) -> pa.Array:
    empty = pc.fill_null(pc.equal(pc.binary_length(encoded), 0), True)
    return pa.StructArray.from_arrays([encoded, pa.nulls(len(encoded), pa.string())], fields=list(PICTURE), mask=empty)
