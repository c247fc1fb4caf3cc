#!/usr/bin/env python3
"""Writes the same few rows in every format nibble reads: tests/golden/rows/.

    pip install pyarrow==26.0.1 zstandard==0.25.0
    tools/record_rows.py

rows.jsonl is the truth; rows.*.parquet differ in page format and compression. types.parquet has the
column types that rows of text do not: numbers, nulls, lists, structs, dictionaries. In awkward.parquet
texts stand beside columns of every kind that readers stumble over, and two that share a name.
"""

import datetime
import decimal
import gzip
import json
import pathlib

import pyarrow
import pyarrow.parquet
import zstandard

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "rows"

ROWS = [
    {
        "instruction": f"Question {i}: what is {i} + {i}?" + ("\n\n" + "long " * 60 if i % 5 == 0 else ""),
        "output": ["It is", "Es ist", "それは", "🦊 says"][i % 4] + f' "{2 * i}".',
        "messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": str(2 * i)}][: 1 + i % 2],
        "source": None if i % 3 == 0 else "sums",
    }
    for i in range(20)
]

TYPES = {
    "int8": pyarrow.array([-128, 127, None], pyarrow.int8()),
    "uint64": pyarrow.array([0, 2**63, 1], pyarrow.uint64()),
    "int64": pyarrow.array([-(2**63), 2**63 - 1, None], pyarrow.int64()),
    "float": pyarrow.array([0.5, None, -2.25], pyarrow.float32()),
    "double": pyarrow.array([0.1, 1e300, None], pyarrow.float64()),
    "bool": pyarrow.array([True, False, None]),
    "large": pyarrow.array(["a", None, ""], pyarrow.large_string()),
    "dictionary": pyarrow.array(["x", "y", "x"]).dictionary_encode(),
    "list": pyarrow.array([[1, None], [], None], pyarrow.list_(pyarrow.int32())),
    "struct": pyarrow.array([{"a": 1, "b": None}, None, {"a": None, "b": ["q"]}],
                            pyarrow.struct([("a", pyarrow.int32()), ("b", pyarrow.list_(pyarrow.string()))])),
}

AWKWARD = [
    ("text", pyarrow.array(["one", None, "three"])),
    ("when", pyarrow.array([1, 2, 3], pyarrow.timestamp("us", "UTC"))),
    ("there", pyarrow.array([1, 2, None], pyarrow.timestamp("ns", "Europe/Berlin"))),
    ("took", pyarrow.array([1, 2, 3], pyarrow.duration("s"))),
    ("day", pyarrow.array([datetime.date(2024, 2, 29)] * 3)),
    ("hour", pyarrow.array([1, 2, 3], pyarrow.time64("ns"))),
    ("price", pyarrow.array([decimal.Decimal("1.50")] * 3, pyarrow.decimal256(50, 2))),
    ("half", pyarrow.array([0.5, None, float("nan")], pyarrow.float16())),
    ("image", pyarrow.array([b"\xff\xd8" * 99, None, b""])),
    ("digest", pyarrow.array([b"0123456789abcdef"] * 3, pyarrow.binary(16))),
    ("map", pyarrow.array([[("a", 1)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int32()))),
    ("nothing", pyarrow.nulls(3)),
    ("deep", pyarrow.array([{"a": [{"b": [[b"x"]]}]}, None, {"a": None}])),
    ("x", pyarrow.array(["a", "b", "c"])),
    ("x", pyarrow.array([1, 2, 3])),
]


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    (FOLDER / "rows.jsonl").write_bytes(lines)
    (FOLDER / "rows.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    (FOLDER / "rows.jsonl.zst").write_bytes(zstandard.compress(lines))
    table = pyarrow.Table.from_pylist(ROWS)
    variants = {
        "none": {"compression": "none", "use_dictionary": False},
        "snappy": {"compression": "snappy"},  # as the hub stores data sets
        "zstd": {"compression": "zstd", "data_page_version": "2.0"},
        "gzip": {"compression": "gzip", "row_group_size": 7},
        "lz4": {"compression": "lz4"},
        "brotli": {"compression": "brotli"},
    }
    for name, options in variants.items():
        pyarrow.parquet.write_table(table, FOLDER / f"rows.{name}.parquet", store_schema=name != "none", **options)
    pyarrow.parquet.write_table(pyarrow.table(TYPES), FOLDER / "types.parquet")
    names, arrays = zip(*AWKWARD)
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=names), FOLDER / "awkward.parquet")


main()
