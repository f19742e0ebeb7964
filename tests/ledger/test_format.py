"""docs/format.md is right: what it says is enough to read a ledger, and names every key and column that there is."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ledger import events, segment
from ledger.chain import Log

PAGE = Path(__file__).resolve().parents[2] / "docs" / "format.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_the_reader_on_the_page_reads_what_the_log_reads(page, fresh, remark):
    for count in (1, 3, 60, 70):
        fresh.writer.append([remark(f"{count} {number}") for number in range(count)])
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    given = {}
    exec(block, given)
    assert list(given["events"](fresh.root)) == [(event.position, event.body) for event in fresh.events()]


def test_the_reader_on_the_page_refuses_a_flipped_bit(page, fresh, remark):
    fresh.writer.append([remark("a")])
    (path,) = (path for base, path in Log.listed_in(fresh.root) if base >= 0)
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
    given = {}
    exec(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0], given)
    with pytest.raises(AssertionError):
        list(given["events"](fresh.root))


@pytest.mark.parametrize("count", [1, 60, 70])
def test_every_key_and_column_of_a_commit_is_on_the_page(page, fresh, remark, count):
    fresh.writer.append([remark(str(number)) for number in range(count)])
    (path,) = (path for base, path in Log.listed_in(fresh.root) if base >= 0)
    file = pq.ParquetFile(path)
    keys = {key.decode() for key in file.metadata.metadata}
    assert {key for key in keys if f"`{key}`" not in page} == set()
    assert ("ledger.leaves" in keys) is (count <= segment.LEAVES_MAX)
    assert [name for name in file.schema_arrow.names if f"`{name}`" not in page] == []


def test_every_key_of_a_body_is_on_the_page(page, fresh, remark):
    import json

    fresh.writer.append([remark("a")])
    (event,) = fresh.events()
    assert [key for key in json.loads(event.body) if f"`{key}`" not in page] == []


def test_every_type_of_event_has_a_version(page):
    assert all(kind.VERSION >= 1 and re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name, kind in events.TYPES.items())
