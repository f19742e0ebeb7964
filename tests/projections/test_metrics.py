"""Points in the table `metrics`: from their own run, and from the spool of one that was killed."""

from ledger import points
from ledger.writer import Draft
from projections.engine import tables


def test_points_that_were_recovered_say_so(fresh):
    for number, recovered in enumerate((False, True)):
        columns = points.columns_of([(1, "loss", 0.5, 1), (2, "loss", 0.25, 2)])
        event = points.publish(fresh.root, f"chunk/w/{number}.parquet", "r1", "api", columns, recovered=recovered)
        fresh.writer.append([Draft("run/r1", event)])
    rows = tables(fresh).rows("SELECT run, step, value, recovered, row FROM metrics ORDER BY event_position, row")
    assert [tuple(row.values()) for row in rows] == [
        ("r1", 1, 0.5, False, 0),
        ("r1", 2, 0.25, False, 1),
        ("r1", 1, 0.5, True, 0),
        ("r1", 2, 0.25, True, 1),
    ]


def test_the_tables_are_the_same_from_chunks_and_from_their_pack(fresh, monkeypatch):
    monkeypatch.setattr("ledger.chunkpacks.FEW", 2)
    for number in range(3):
        rows = [(step, name, step / 7, step) for step in (2, 1) for name in ("b", "a")]
        fresh.writer.append([Draft("run/r", points.write_chunk(fresh.root, f"r{number}", "api", "w", number, rows))])
    before = tables(fresh).digests()
    points.pack_chunks(fresh)
    assert points.pack_chunks(fresh, grace=0).removed == 3
    assert tables(fresh, fresh=True).digests() == before
