"""Writes the same 48 rows as JSON lines, and as Parquet and Arrow files of every supported type, encoding and compression.

    python tests/scripts/make_columns.py recipes/data/tests/fixtures/columns

Versions: pyarrow 22.0.0, datasets 4.4.1.
"""

import decimal
import json
import sys
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet
from datasets import Dataset, DatasetDict

ROWS = 48


def row(number):
    """A row as JSON: absent keys are those that columns fill with null."""
    place = ["Bella", "Zum Löwen", "東京亭"][number % 3]
    messages = [{"role": "user", "content": f"Book a table for {number} at {place}." + " Please!" * (number % 4)}]
    if number % 5 == 0:
        messages.insert(0, {"role": "system", "content": "Be brief."})
    if number % 2:
        call = {"name": "book", "arguments": {"people": number, "quiet": number % 4 == 1, "tip": number / 8}}
        if number % 3 == 0:
            call["arguments"]["tags"] = ["window", ""][: number % 4 - 1]
        messages += [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
                     {"role": "tool", "content": "done"}]
    messages.append({"role": "assistant", "content": f"A table for {number}.\n" * (number % 3 + 1)})
    if number % 7 == 0:
        messages[-1]["weight"] = 1
    parameters = {"type": "object", "required": ["people"][: number % 2], "limit": 0.5 * number}
    tools = [{"type": "function", "function": {"name": "book", "strict": True, "parameters": parameters}}]
    found = {"id": number, "kind": ["chat", "tool"][number % 2], "messages": messages, "score": number / 3}
    return found | ({"tools": tools} if number % 3 else {})


def schema(text, names, many):
    call = pa.struct([("name", text), ("arguments", pa.struct([
        ("people", pa.int16()), ("quiet", pa.bool_()), ("tip", pa.float32()), ("tags", many(text))]))])
    message = pa.struct([("role", names), ("content", text),
                         ("tool_calls", many(pa.struct([("type", text), ("function", call)]))), ("weight", pa.uint8())])
    parameters = pa.struct([("type", text), ("required", many(text)), ("limit", pa.float64())])
    tool = pa.struct([("type", text), ("function", pa.struct([
        ("name", text), ("strict", pa.bool_()), ("parameters", parameters)]))])
    return pa.schema([pa.field("id", pa.int64(), nullable=False), ("kind", names), ("messages", many(message)), ("score", pa.float64()),
                      ("tools", many(tool)), ("note", pa.null())])


def as_parquet(rows, folder):
    plain = pa.Table.from_pylist(rows, schema(pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.large_list))
    for codec, group in (("snappy", 20), ("gzip", ROWS), ("lz4", ROWS), ("none", ROWS)):
        parquet.write_table(plain, folder / f"{codec}.parquet", compression=codec, row_group_size=group, data_page_size=500)
    texts = ["kind", "messages.list.element.role", "messages.list.element.content"]
    encodings = {"id": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT"}
    encodings |= dict(zip(texts, ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"), strict=True))
    table = pa.Table.from_pylist(rows, schema(pa.string(), pa.string(), pa.list_))
    parquet.write_table(table, folder / "zstd.parquet", compression="zstd", data_page_version="2.0", use_dictionary=False,
                        column_encoding=encodings, write_page_checksum=True)
    parquet.write_table(table.slice(0, 1), folder / "refused" / "brotli.parquet", compression="brotli")


def as_arrow(rows, folder):
    table = pa.Table.from_pylist(rows, schema(pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.large_list))
    for name, begin, codec in (("file.arrow", ipc.new_file, "lz4"), ("stream.arrow", ipc.new_stream, None)):
        with begin(folder / name, table.schema, options=ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table, max_chunksize=20)
    table = pa.Table.from_pylist(rows, schema(pa.large_string(), pa.string(), pa.list_))
    feather.write_feather(table, folder / "rows.feather", compression="zstd")


def refused(folder):
    """A file of each type that has no counterpart in JSON."""
    columns = {
        "timestamp": pa.array([datetime(2024, 1, 1)], pa.timestamp("ms")),
        "binary": pa.array([b"a"], pa.binary()),
        "decimal": pa.array([decimal.Decimal("1.5")], pa.decimal128(5, 2)),
        "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    }
    for kind, column in columns.items():
        table = pa.table({"text": ["a"], "other": pa.StructArray.from_arrays([column], ["inner"])})
        parquet.write_table(table, folder / f"{kind}.parquet")
        feather.write_feather(table, folder / f"{kind}.arrow", compression="uncompressed")


def main(folder):
    folder = Path(folder)
    for inner in ("refused", "hub/data"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    rows = [row(number) for number in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    as_parquet(rows, folder)
    as_arrow(rows, folder)
    refused(folder / "refused")
    data = Dataset(pa.Table.from_pylist(rows, schema(pa.string(), pa.string(), pa.list_)).drop(["note"]))
    for shard in range(2):
        data.shard(2, shard, contiguous=True).to_parquet(folder / f"hub/data/train-{shard:05}-of-00002.parquet")
    data.select(range(3)).to_parquet(folder / "hub/data/test-00000-of-00001.parquet")
    saved = DatasetDict({"train": data, "validation": data.select(range(3))})
    saved.save_to_disk(folder / "saved", num_shards={"train": 2, "validation": 1})


if __name__ == "__main__":
    main(sys.argv[1])
