"""Record folders in the manner of the speedrun."""

import pytest

from ledger.errors import UsageError

LOG = """\
import torch
print(f"step:{step}/{steps} val_loss:{val_loss:.4f}")
====
step:0/1770 val_loss:10.8258 train_time:0ms step_avg:nanms
step:1500/1770 val_loss:3.4001 train_time:120000ms step_avg:80.00ms
step:1770/1770 val_loss:3.2789 train_time:148617ms step_avg:83.96ms
peak memory allocated: 31000 MiB
"""
README = """\
# New record

Faster by ten steps.

```
losses = [3.2789, 3.2792, 3.2796]
times = [148.617, 148.580, 148.569]

print("p=%.4f" % scipy.stats.ttest_1samp(losses, 3.28, alternative="less").pvalue)
# p=0.0045

print("losses:", torch.std_mean(torch.tensor(losses)))
# losses: (std=0.0003512, mean=3.2792333)
```

The record before, on this machine:

times = [149.714, 149.676]
"""


@pytest.fixture
def record(tmp_path):
    folder = tmp_path / "track_1_short" / "2025-09-29_Faster"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(README)
    (folder / "aa.txt").write_text(LOG)
    return folder


def test_the_last_validation_of_a_log_counts_and_the_readme_s_list_is_beside_it(record, imported, rows):
    counts, failed = imported("modded-nanogpt", record)
    assert (counts["records"], counts["claims"], failed) == (1, 1, [])
    found = rows("SELECT source, val_bpb, val_loss, steps, wall_s, evidence FROM seed_sources")
    assert found[0] == {
        "source": "log", "val_bpb": None, "val_loss": 3.2789, "steps": 1770, "wall_s": 148.617,
        "evidence": "aa.txt:6",
    }  # fmt: skip
    assert [(row["val_loss"], row["wall_s"]) for row in found[1:]] == [
        (3.2789, 148.617),
        (3.2792, 148.58),
        (3.2796, 148.569),
    ]
    assert rows("SELECT record, name, date, val_bpb FROM records") == [
        {"record": "track_1_short/2025-09-29_Faster", "name": "New record", "date": "2025-09-29", "val_bpb": None}
    ]


def test_n_mean_and_p_are_a_claim(record, imported, rows):
    imported("modded-nanogpt", record.parent)
    found = {row["name"]: row["value"] for row in rows("SELECT name, value FROM probes")}
    assert found == {"n": 3, "p": 0.0045, "mean": 3.2792333, "std": 0.0003512}
    assert rows("SELECT * FROM claim_flags") == []


def test_a_mean_that_is_not_that_of_its_list_is_flagged(record, imported, rows):
    (record / "README.md").write_text(README.replace("mean=3.2792333", "mean=3.2762333"))
    imported("modded-nanogpt", record)
    assert [row["field"] for row in rows("SELECT field FROM claim_flags")] == ["mean"]


def test_again_adds_nothing_and_a_further_log_is_a_new_reading(record, imported, log, rows):
    imported("modded-nanogpt", record)
    size = log.head().position
    imported("modded-nanogpt", record)
    assert log.head().position == size
    (record / "bb.txt").write_text(LOG.replace("3.2789", "3.2701"))
    counts, _ = imported("modded-nanogpt", record)
    assert counts["records"] == 1
    assert rows("SELECT count(*) AS n FROM seed_sources WHERE source = 'log'") == [{"n": 2}]


def test_a_folder_that_tells_nothing_is_one_line_and_the_others_are_read(record, imported):
    other = record.parent / "2025-10-01_Empty"
    other.mkdir()
    (other / "notes.txt").write_text("nothing")
    counts, failed = imported("modded-nanogpt", record.parent)
    assert counts["records"] == 1
    assert failed == [("2025-10-01_Empty", "neither its logs nor its README tell a val_loss")]


def test_a_folder_without_records_is_refused(tmp_path, imported):
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="holds no record"):
        imported("modded-nanogpt", tmp_path / "x")
