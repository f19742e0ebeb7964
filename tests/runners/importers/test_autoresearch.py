"""A results.tsv as an autoresearch loop writes it."""

import pytest

from ledger.errors import UsageError

TSV = """\
commit\tval_bpb\tmemory_gb\tstatus\tdescription
a1b2c3d\t0.997900\t44.0\tkeep\tbaseline
b2c3d4e\t0.993200\t44.2\tkeep\tincrease LR, twice
c3d4e5f\t1.005000\t44.0\tdiscard\tswitch to GeLU
d4e5f6a\t0.000000\t0.0\tcrash\tdouble model width (OOM)
"""


def test_each_line_is_a_run_and_a_crash_has_no_score(tmp_path, imported, rows):
    (tmp_path / "results.tsv").write_text(TSV)
    counts, failed = imported("autoresearch", tmp_path)
    assert (counts["runs"], failed) == (4, [])
    found = rows("SELECT arm, status, value, git_commit, peak_memory_bytes FROM runs ORDER BY git_commit")
    assert found[0] == {
        "arm": "baseline", "status": "ok", "value": 0.9979, "git_commit": "a1b2c3d", "peak_memory_bytes": 44 << 30,
    }  # fmt: skip
    assert found[3]["status"] == "oom"
    assert found[3]["value"] is None


def test_a_file_that_has_grown_adds_its_new_lines(tmp_path, imported, log):
    path = tmp_path / "results.tsv"
    path.write_text(TSV)
    imported("autoresearch", path)
    path.write_text(TSV + "e5f6a7b\t0.99\t44.0\tkeep\tmore\n")
    counts, _ = imported("autoresearch", path)
    assert (counts["runs"], counts["same"]) == (1, 4)


def test_two_equal_lines_are_two_runs(tmp_path, imported):
    (tmp_path / "results.tsv").write_text(TSV + TSV.splitlines()[1] + "\n")
    counts, _ = imported("autoresearch", tmp_path)
    assert counts["runs"] == 5


def test_other_columns_beside_the_score_are_read(tmp_path, imported, rows):
    head = "val_bpb\tartifact_bytes\tmemory_mb\tnotes\n"
    (tmp_path / "results.tsv").write_text(head + "1.36330099\t12265862\t10255\tbaseline unmodified\n")
    imported("autoresearch", tmp_path)
    assert rows("SELECT arm, value, artifact_bytes, peak_memory_bytes FROM runs") == [
        {
            "arm": "baseline unmodified", "value": 1.36330099, "artifact_bytes": 12265862,
            "peak_memory_bytes": 10255 << 20,
        }
    ]  # fmt: skip


def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, imported):
    (tmp_path / "results.tsv").write_text(TSV + "f6a7b8c\tgood\t1\tkeep\tx\n\nf6a7b8c\n")
    counts, failed = imported("autoresearch", tmp_path)
    assert counts["runs"] == 4
    assert failed == [
        ("results.tsv:6", "val_bpb is 'good', not a number"),
        ("results.tsv:8", "has 1 cells, 5 were expected"),
    ]


@pytest.mark.parametrize("data", [b"", b"a\tb\n1\t2\n", b"\xff\xfe\x00", b"{}"])
def test_a_file_without_scores_is_refused_in_one_line(tmp_path, imported, data):
    (tmp_path / "results.tsv").write_bytes(data)
    with pytest.raises(UsageError) as error:
        imported("autoresearch", tmp_path)
    assert "\n" not in str(error.value)
