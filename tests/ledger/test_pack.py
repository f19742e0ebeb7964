"""Packs hold the same events as the commits that they replace, and are removed only when that is safe."""

import io
import itertools
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import compaction, disk, layout, pack, segment
from ledger.chain import Log
from ledger.errors import Corrupt, NotAppended, Unsupported
from ledger.merkle import Frontier, leaf_hash
from ledger.verify import verify


@pytest.fixture
def many(fresh, remark):
    """Sixty events in thirty commits of one to three, in three streams."""
    number = 0
    for commit in range(30):
        size = 1 + commit % 3
        fresh.writer.append([remark(f"event {number + n}", f"event/s{(number + n) % 3}") for n in range(size)])
        number += size
    return fresh


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(pack, "GROUP_ROWS", 16)


@pytest.fixture
def packed(many, small_groups):
    """The sixty events in one pack, the commits removed; one more event is that of the signing key."""
    compaction.compact(many, 0)
    return many


def places(log):
    return [place[:2] for place in pack.listed(log.root)]


def pack_file(log):
    return Path(pack.listed(log.root)[0].path)


def rewritten(path, data):
    path.unlink()
    path.write_bytes(data)


# ── nothing changes ──


def test_every_way_to_read_gives_the_same_from_a_pack(many, small_groups, files_of):
    events = list(many.events())
    heads = [many.head_at(position) for position in range(61)]
    done = compaction.compact(many, 0)
    assert done.packed == ((0, 60),)
    assert done.removed_segments == 30
    assert [path.name for path in files_of(many)] == [f"{60:016d}.parquet"]  # the key's announcement
    for log in (many, Log(many.root)):
        assert list(log.events())[:60] == events
        assert [log.head_at(position) for position in range(61)] == heads
        for start, stop in [(0, 60), (0, 1), (59, 60), (15, 17), (16, 32), (17, 43), (60, 60)]:
            assert list(log.events(start=start, as_of=stop)) == events[start:stop]
        for name in ("event/s0", "event/s2"):
            assert list(log.events(stream=name)) == [event for event in events if event.stream == name]
        assert all(log.find(event.event_id) == event for event in events[::7])
        assert log.position(events[20].event_id) == 21
    assert verify(many.root).problems == ()


def test_as_of_a_time_within_a_pack(fresh, remark):
    fresh.writer.append([remark("a"), remark("b")])
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    fresh.writer.append([remark("c")])
    compaction.compact(fresh, 0)
    assert fresh.position(moment) == Log(fresh.root).position(moment) == 2


def test_a_pack_has_the_columns_of_a_segment_and_the_position_in_order(packed):
    table = pq.read_table(pack_file(packed), page_checksum_verification=True)
    assert table.column_names == [*segment.schema().names, "position"]
    assert table["position"].to_pylist() == list(range(60))
    assert [bytes(body) for body in table["body"].to_pylist()] == [event.body for event in packed.events(as_of=60)]


def test_a_pack_says_which_tree_it_ends_with(packed):
    said, batches = pack.read(str(pack_file(packed)), packed.identity.id)
    tree = Frontier()
    for _, batch in batches:
        tree.extend(segment.leaves_of(batch))
    assert (said.start, said.stop, said.n, said.commits) == (0, 60, 60, 30)
    assert (said.tree().root(), said.root) == (tree.root(), tree.root().hex())


def test_appends_go_on_after_a_pack(packed, remark):
    size = packed.head().position
    assert packed.writer.append([remark("more")]).position == size
    assert Log(packed.root).writer.append([remark("and more")]).position == size + 1
    assert verify(packed.root).problems == ()


def test_a_log_is_opened_over_packs_without_reading_their_rows(packed, monkeypatch):
    read = []
    real = pack._pread

    def counting(file, begin, end):
        read.append(end - begin)
        return real(file, begin, end)

    monkeypatch.setattr(pack, "_pread", counting)
    assert Log(packed.root).head() == packed.head()
    monkeypatch.setattr(pack.Pack, "read", None)
    assert Log(packed.root).size == packed.size


def test_one_event_is_read_from_one_row_group(packed, monkeypatch):
    groups = []
    real = pack.Pack.read

    def counting(self, number, columns=None):
        groups.append(number)
        return real(self, number, columns)

    monkeypatch.setattr(pack.Pack, "read", counting)
    assert next(Log(packed.root).events(start=40, as_of=41)).position == 40
    assert groups == [2]


def test_a_reader_goes_on_in_the_pack_when_the_commits_vanish_under_it(many):
    reader = Log(many.root)
    events = reader.events()
    first = [next(events) for _ in range(7)]
    compaction.compact(many, 0)
    assert [event.position for event in [*first, *events]] == list(range(60))


def test_a_reader_goes_on_in_the_wider_pack_when_its_pack_was_merged(packed, remark):
    reader = Log(packed.root)
    events = reader.events()
    first = [next(events) for _ in range(7)]
    for number in range(20):
        packed.writer.append([remark(f"later {number}")])
    compaction.compact(packed, 0)
    assert places(packed) == [(0, 81)]
    assert [event.position for event in [*first, *events]] == list(range(61))
    assert reader.head() == packed.head()


def test_an_open_log_leaps_over_what_was_packed_meanwhile(many, remark):
    stale = Log(many.root)
    compaction.compact(many, 0)
    many.writer.append([remark("more")])
    assert stale.head() == many.head()
    assert stale.writer.append([remark("mine")]).position == 62


# ── damage ──


def test_any_flipped_bit_is_found(packed):
    path = pack_file(packed)
    data = path.read_bytes()
    chance = random.Random(3)
    bits = [chance.randrange(len(data) * 8) for _ in range(150)]
    at = data.rindex(b"ledger.seal") + 20
    for bit in [*bits, at * 8, 0, len(data) * 8 - 1]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        rewritten(path, flipped)
        with pytest.raises((Corrupt, Unsupported)):
            list(pack.read(str(path), packed.identity.id)[1])
    rewritten(path, data)
    assert verify(packed.root).problems == ()


def test_a_flipped_bit_never_becomes_a_row(packed):
    path = pack_file(packed)
    data, right = path.read_bytes(), list(packed.events())
    chance = random.Random(4)
    refused = 0
    for bit in [chance.randrange(len(data) * 8) for _ in range(60)]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        rewritten(path, flipped)
        try:
            assert list(Log(packed.root).events()) == right  # the seal's own digits are only read by verify
        except (Corrupt, Unsupported):
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 100, b"PAR1\0\0\0\0PAR1"])
def test_what_is_no_pack_is_refused(packed, damage):
    rewritten(pack_file(packed), damage)
    with pytest.raises(Corrupt):
        Log(packed.root)


def test_a_pack_under_another_name_is_refused(packed):
    os.rename(pack_file(packed), pack.path_of(packed.root, 0, 59))
    with pytest.raises(Corrupt):
        Log(packed.root)


def test_a_pack_of_another_ledger_is_refused(packed, tmp_path, remark):
    other = Log.create(tmp_path / "other")
    other.writer.append([remark("x")])
    Path(pack.path_of(other.root, 0, 60)).write_bytes(pack_file(packed).read_bytes())
    with pytest.raises(Corrupt, match="belongs to ledger"):
        other.head()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_pack_is_named_by_its_first_position(packed, remark, lost):
    for number in range(10):
        packed.writer.append([remark(f"later {number}")])
    compaction.compact(packed, 0, largest=20)
    assert places(packed) == [(0, 60), (60, 71)]
    packed.writer.append([remark("loose")])
    packed.note_head()
    Path(pack.listed(packed.root)[lost].path).unlink()
    with pytest.raises(Corrupt) as refused:
        Log(packed.root).head()
    assert refused.value.position == [0, 60][lost]
    with pytest.raises(Corrupt) as refused:
        list(packed.events())
    assert refused.value.position == [0, 60][lost]


# ── which pack counts ──


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), max_size=8))
def test_the_chain_covers_what_can_be_covered_from_the_beginning(ranges):
    listed = [pack.Place(start, start + size, "") for start, size in ranges]
    chain = pack.chain(listed)
    covered = {position for place in listed for position in range(place.start, place.stop)}
    end = next(position for position in range(30) if position not in covered)
    assert (chain[-1].stop if chain else 0) == end
    held = [position for place in chain for position in range(place.start, place.stop)]
    assert set(held) == set(range(end))
    assert all(a.start < b.start and a.stop < b.stop for a, b in itertools.pairwise(chain))


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.sampled_from([4096, 4**10]))
def test_packs_stay_few_and_each_event_is_packed_again_seldom(sizes, largest):
    stack, end, written = [], 0, 0
    for size in sizes:
        keep = compaction._push(stack, (end, end + size, size), largest)
        end += size
        written += stack[-1][1] - stack[-1][0]
        assert stack[-1][1] == end
        assert keep == len(stack) - 1
    assert [one[0] for one in stack] == [0, *(one[1] for one in stack[:-1])]
    assert all(one[1] - one[0] <= max(largest, 3000) for one in stack)
    if largest > end:
        assert len(stack) <= 4 * compaction._level(max(end, 1)) + 4


def test_a_second_compaction_merges_small_packs(packed, remark):
    for number in range(5):
        packed.writer.append([remark(f"later {number}")])
    assert compaction.compact(packed, 0).removed_packs == 1
    assert places(packed) == [(0, 66)]
    assert compaction.compact(packed, 0).packed == ()
    assert verify(packed.root).problems == ()


def test_a_pack_ends_where_a_commit_ends(fresh, remark):
    for commit in range(4):
        fresh.writer.append([remark(f"{commit} {part}") for part in range(5)])
    compaction.compact(fresh, 0, largest=8)
    assert places(fresh) == [(0, 5), (5, 10), (10, 15), (15, 20)]


# ── what is removed, and when ──


def test_nothing_is_removed_before_the_grace_is_over(many, files_of):
    done = compaction.compact(many, grace=3600)
    assert (done.removed_segments, len(files_of(many))) == (0, 30)
    assert [(kept.files, kept.why) for kept in done.kept] == [(30, "packed less than 1 h ago")]
    assert compaction.compact(many, grace=0).removed_segments == 30


def test_nothing_is_removed_without_a_signed_head(many, files_of, monkeypatch):
    monkeypatch.setenv("LEDGER_CONFIG", "/dev/null/nowhere")
    done = compaction.compact(many, 0)
    assert done.packed == ((0, 60),)
    assert len(files_of(many)) == 30
    assert [kept.files for kept in done.kept] == [30]
    assert done.kept[0].why.startswith("no signed head: ")


def test_nothing_is_removed_for_a_pack_that_cannot_be_read_again(many, files_of):
    compaction.compact(many, 3600)
    path = pack_file(many)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    rewritten(path, data)
    with pytest.raises(Corrupt):
        compaction.compact(many, 0)
    assert len(files_of(many)) == 30


def test_a_pack_that_came_out_otherwise_is_not_published(many, monkeypatch):
    real = disk.write_temporary

    def damaging(folder, data, nameless=False):
        changed = bytearray(data)
        changed[len(changed) // 3] ^= 4
        return real(folder, bytes(changed), nameless)

    monkeypatch.setattr(disk, "write_temporary", damaging)
    with pytest.raises(Corrupt):
        compaction.compact(many, 0)
    assert places(many) == []
    assert not [name for name in os.listdir(os.path.join(many.root, "tmp")) if not name.endswith(".lock")]


def test_the_second_of_two_compactors_finds_the_pack_of_the_first(many, monkeypatch):
    real = disk.Temporary.link
    turns = []

    def late(self, target):
        if "/pack/" in target and not turns:
            turns.append(target)
            assert compaction.compact(Log(many.root), 3600).packed == ((0, 60),)
        return real(self, target)

    monkeypatch.setattr(disk.Temporary, "link", late)
    assert compaction.compact(many, 0).packed == ()
    assert places(many) == [(0, 60)]


def test_another_pack_under_the_same_name_is_not_taken_for_ours(many, monkeypatch, tmp_path, remark):
    other = Log.create(tmp_path / "other")
    for number in range(60):
        other.writer.append([remark(f"other {number}")])
    compaction.compact(other, 3600)
    wrong = pack_file(other).read_bytes()
    real = disk.Temporary.link

    def late(self, target):
        if "/pack/" in target:
            Path(target).write_bytes(wrong)
        return real(self, target)

    monkeypatch.setattr(disk.Temporary, "link", late)
    with pytest.raises(Corrupt):
        compaction.compact(many, 0)
    assert len([base for base, _ in Log.listed_in(many.root)]) == 30


def test_a_segment_below_the_packs_with_other_events_is_seen_by_no_reader(packed, remark, tmp_path):
    other = Log.create(tmp_path / "other")
    other.writer.append([remark("of a writer that slept")])
    rows = next(other.batches())[2].to_pylist()
    rows = [segment.Row(**{**row, "recorded_at": 0}) for row in rows]
    zombie = Path(layout.segment_path(packed.root, 3))
    zombie.write_bytes(segment.encode(rows, packed.identity.id, 0, "")[0])
    before = packed.head()
    for log in (packed, Log(packed.root)):
        assert log.head() == before
        assert [event.position for event in log.events()] == list(range(61))
        assert "of a writer that slept" not in {getattr(event.data, "reason", "") for event in log.events()}
    assert compaction.zombies(packed) == [(3, str(zombie))]
    done = compaction.compact(packed, 0)
    assert zombie.exists()
    assert [kept.why for kept in done.kept] == ["other events than the packs: `ledger verify`"]


def test_a_log_that_stands_behind_does_not_step_on_such_a_segment(many, remark, tmp_path):
    stale = Log(many.root)
    compaction.compact(many, 0)
    rows = [segment.Row(**{**row, "recorded_at": 0}) for row in next(many.batches())[2].slice(0, 1).to_pylist()]
    rows = [row._replace(body=b"{}") for row in rows]
    Path(layout.segment_path(many.root, stale.size)).write_bytes(segment.encode(rows, many.identity.id, 0, "")[0])
    assert stale.head() == many.head()
    tree = Frontier()
    tree.extend(leaf_hash(event.body) for event in stale.events())
    assert tree.root().hex() == stale.head().root


def test_a_refused_pack_says_that_nothing_was_packed(many, monkeypatch):
    def full(folder, data, nameless=False):
        raise NotAppended("nothing was appended: no space")

    monkeypatch.setattr(disk, "write_temporary", full)
    with pytest.raises(NotAppended, match="nothing was packed: no space"):
        compaction.compact(many, 0)
    assert places(many) == []


# ── size ──


def test_large_bodies_make_small_row_groups(fresh, remark, monkeypatch):
    monkeypatch.setattr(pack, "GROUP_BYTES", 4000)
    for number in range(12):
        fresh.writer.append([remark(f"{number} " + "x" * 900)])
    compaction.compact(fresh, 0)
    said = pack.peek(str(pack_file(fresh)))
    assert max(rows for rows, _, _ in said.groups) <= 4
    assert pq.ParquetFile(io.BytesIO(pack_file(fresh).read_bytes())).metadata.num_row_groups == len(said.groups)
    assert [event.position for event in fresh.events(as_of=12)] == list(range(12))


def test_packs_that_overlap_are_read_once_and_verified(packed, remark):
    for number in range(12):
        packed.writer.append([remark(f"later {number}")])
    compaction.compact(packed, 3600, largest=20)
    events = list(packed.events())
    assert places(packed) == [(0, 60), (60, 73)]
    commits = packed.loose()[1]
    groups = compaction._groups(packed.batches(50, 73))
    data, said = pack.encode(groups, packed.identity.id, 50, packed.tree_at(50), commits)
    Path(pack.path_of(packed.root, 50, 73)).write_bytes(data)
    Path(pack.path_of(packed.root, 60, 73)).unlink()
    assert [place[:2] for place in pack.chain(pack.listed(packed.root))] == [(0, 60), (50, 73)]
    for log in (packed, Log(packed.root)):
        assert list(log.events()) == events
    report = verify(packed.root)
    assert (report.problems, report.root) == ((), said.root)
