"""A source is never held whole: a million rows take as much memory as a hundred thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

READ = """
import sys
import pyarrow.parquet
from airflow_openai_batch.engine.sources import open_source

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

before = memory("VmRSS")
rows = sum(1 for row in open_source(sys.argv[1]).rows() if row.data)
print(rows, memory("VmHWM") - before)
"""


def growth(path):
    """Rows of a file, and by how many MB reading them made a new process grow."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True)
    rows, grown = done.stdout.split()
    return int(rows), float(grown)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
def test_a_million_rows_of_one_row_group_take_little_memory(tmp_path):
    grown = {}
    for count in (100_000, 1_000_000):
        text = pa.array([f"the text of row {number}, and some more of it to read" for number in range(count)])
        label = pa.array([f"label {number % 1_000}" for number in range(count)]).dictionary_encode()
        table = pa.table({"id": range(count), "text": text, "label": label})
        pq.write_table(table, tmp_path / "in.parquet", row_group_size=count)
        rows, grown[count] = growth(tmp_path / "in.parquet")
        assert rows == count
    assert grown[1_000_000] < 80, grown
    assert grown[1_000_000] - grown[100_000] < 30, grown


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
@pytest.mark.parametrize("name", ["in.jsonl", "in.csv.gz", "in.jsonl.zst"])
def test_files_of_lines_take_hardly_any(tmp_path, name):
    compression = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2])
    with pa.output_stream(str(tmp_path / name), compression=compression) as file:
        file.write(b"text\n" if "csv" in name else b"")
        line = b"the text of a row and some more of it to read " * 20
        for _ in range(60):
            file.write((line + b"\n" if "csv" in name else b'{"text":"' + line + b'"}\n') * 1_000)
    rows, grown = growth(tmp_path / name)
    assert rows == 60_000
    assert grown < 25, "MB, of 57"
