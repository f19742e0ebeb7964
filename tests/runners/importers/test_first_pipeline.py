"""The first pipeline's files, written here with its keys."""

import json

import pytest

from ledger.errors import UsageError

CONFIG = {"script": "train_gpt_mlx.py", "env_overrides": {"MLP_MULT": "3"}, "description": "mlp_mult 3"}
BASE = {"script": "train_gpt_mlx.py", "env_overrides": {"MLP_MULT": "2"}, "description": "control"}


def result(seed, bpb, **more):
    told = {"seed": seed, "val_bpb": bpb, "val_loss": bpb * 1.7 if bpb else None, "wall_time_s": 12.5}
    return {**told, "checkpoint_path": None, "train_log_path": None, **more}


def raw_runs(**changes):
    return {
        "platform": "mlx",
        "seeds": [42, 137],
        "treatment": {"config": CONFIG, "results": [result(42, 1.25), result(137, 1.26)], "status": "complete"},
        "control": {"config": BASE, "results": [result(42, 1.27), result(137, 1.28)], "status": "complete"},
        **changes,
    }


def write(folder, name, value):
    (folder / name).write_text(json.dumps(value))
    return folder / name


def test_runs_come_in_with_their_settings_and_belong_to_no_plan(tmp_path, imported, rows):
    counts, failed = imported("first-pipeline", write(tmp_path, "raw_runs.json", raw_runs()))
    assert (counts["runs"], failed) == (4, [])
    found = rows("SELECT arm, role, seed, status, metric, value, wall_s FROM runs ORDER BY role DESC, seed")
    assert found[0] == {
        "arm": "mlp_mult 3", "role": "treatment", "seed": 42, "status": "ok", "metric": "val_bpb", "value": 1.25,
        "wall_s": 12.5,
    }  # fmt: skip
    assert rows("SELECT DISTINCT experiment, seed_role, started_after_registration AS planned FROM runs") == [
        {"experiment": None, "seed_role": "tuning", "planned": False}
    ]
    assert rows("SELECT count(DISTINCT base) AS n FROM runs") == [{"n": 1}]
    assert rows("SELECT * FROM paired_differences") == []


def test_the_same_file_again_and_a_copy_of_it_add_nothing(tmp_path, log, imported):
    first = write(tmp_path, "raw_runs.json", raw_runs())
    imported("first-pipeline", first)
    size = log.head().position
    (tmp_path / "label_treatment_raw_runs.json").write_bytes(first.read_bytes())
    for path in (first, tmp_path / "label_treatment_raw_runs.json"):
        counts, _ = imported("first-pipeline", path)
        assert "runs" not in counts
    assert log.head().position == size


def test_a_longer_file_adds_only_what_is_new(tmp_path, imported):
    runs = raw_runs()
    imported("first-pipeline", write(tmp_path, "raw_runs.json", runs))
    runs["treatment"]["results"].append(result(256, 1.3))
    counts, _ = imported("first-pipeline", write(tmp_path, "raw_runs.json", runs))
    assert (counts["runs"], counts["same"]) == (1, 4)


def test_a_screening_loss_is_no_bits_per_byte(tmp_path, imported, rows):
    screened = result(42, 3.9, val_loss=3.9, metrics={"screening_mode": True})
    quiet = result(137, 3.8, val_loss=3.8)  # the same without the mark
    runs = raw_runs(treatment={"config": CONFIG, "results": [screened, quiet]})
    imported("first-pipeline", write(tmp_path, "raw_runs.json", runs))
    found = rows("SELECT seed, metric, value, stage FROM runs WHERE role = 'treatment' ORDER BY seed")
    assert found == [
        {"seed": 42, "metric": "train_loss", "value": 3.9, "stage": "train"},
        {"seed": 137, "metric": "train_loss", "value": 3.8, "stage": "train"},
    ]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (result(1, None, error="Timeout after 600s"), "timeout"),
        (result(1, None, error="CUDA out of memory"), "oom"),
        (result(1, None, error="exit code 1"), "crash"),
        (result(1, None), "no_metric"),
        (result(1, float("nan")), "diverged"),
        (result(1, 1.2), "ok"),
    ],
)
def test_a_failure_is_an_outcome_with_its_status(tmp_path, imported, rows, told, status):
    runs = raw_runs(treatment={"config": CONFIG, "results": [told]})
    imported("first-pipeline", write(tmp_path, "raw_runs.json", runs))
    assert rows("SELECT status FROM runs WHERE role = 'treatment'") == [{"status": status}]


def interventions():
    rows = [
        {"name": "Int6 QAT", "category": "quantization", "delta_bpb": -0.01, "delta_source": "ablation_table"},
        {"name": "Command", "category": "optimization", "delta_bpb": -0.02, "delta_source": "readme_prose"},
    ]
    one = {
        "submission_id": "2026-03-20_X", "date": "2026-03-20", "author": "a", "base_bpb": 1.22, "final_bpb": 1.19,
        "interventions": rows, "parse_quality": "structured",
    }  # fmt: skip
    return {"submissions": [one], "field_coverage": 0.9, "metadata": {"total_submissions": 1}}


def test_its_readings_are_kept_apart_and_what_it_divided_is_no_figure(tmp_path, imported, rows):
    counts, _ = imported("first-pipeline", write(tmp_path, "interventions.json", interventions()))
    assert counts["records"] == 1
    assert rows("SELECT record, val_bpb, base_val_bpb, parser FROM records") == [
        {
            "record": "first-pipeline/2026-03-20_X", "val_bpb": 1.19, "base_val_bpb": 1.22,
            "parser": "import/first-pipeline/1",
        }
    ]  # fmt: skip
    assert rows("SELECT label, delta_bpb, delta_source FROM interventions") == [
        {"label": "Int6 QAT", "delta_bpb": -0.01, "delta_source": "stated"},
        {"label": "Command", "delta_bpb": None, "delta_source": None},
    ]
    assert "Command: -0.02" in rows("SELECT said FROM claim_flags")[0]["said"]
    assert rows("SELECT * FROM intervention_matrix") == []


def test_its_claims_keep_every_figure_and_the_file_itself(tmp_path, imported, rows, log):
    comparison = {
        "name": "comparison_0", "platform": "mlx", "n_seeds": 3, "mean_effect": -0.0019, "ci_lo": -0.002,
        "p_value": 0.16, "decision": "suggestive",
    }  # fmt: skip
    edge = {"source": "mlp_mult", "target": "bpb", "type": "expert", "tag": "uncertain", "effect_estimate": 0.0}
    entry = {"type": "experiment", "platform": "mlx", "seeds": [42], "raw_runs_path": "raw_runs.json"}
    cycle = {"label": "dag_rec_gqa", "cycle": 1, "treatment_overrides": {"NUM_KV_HEADS": "2"}, "analysis": comparison}
    folder = tmp_path / "out"
    (folder / "cycle_1").mkdir(parents=True)
    path = write(folder / "cycle_1", "x_ablation.json", {"comparisons": [comparison], "alpha": 0.01, "mde": 0.002})
    write(folder, "causal_dag.json", {"cycle": 1, "edges": [edge], "next_intervention": {"variable": "gqa"}})
    write(folder, "experiment_log.json", {"experiments": [entry, entry]})
    write(folder, "pipeline_log.json", {"last_cycle": 1, "results": [cycle]})
    counts, failed = imported("first-pipeline", folder)
    assert failed == []
    assert counts["files"] == 4
    probes = rows("SELECT probe, count(DISTINCT event_id) AS n FROM probes GROUP BY probe ORDER BY probe")
    assert {row["probe"]: row["n"] for row in probes}["imported_comparison"] == 1
    effects = rows("SELECT value FROM probes WHERE probe = 'imported_comparison' AND name = 'mean_effect'")
    assert effects == [{"value": -0.0019}]
    kept = rows("SELECT sha256 FROM artifacts WHERE kind = 'import' AND name LIKE '%ablation.json'")
    assert log.blobs.get(kept[0]["sha256"]) == path.read_bytes()
    size = log.head().position
    imported("first-pipeline", folder)
    assert log.head().position == size


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("raw_runs.json", "{", "is not JSON"),
        ("raw_runs.json", "[]", "holds no object, but a list"),
        ("raw_runs.json", "{}", "treatment is not an object, but null"),
        ("raw_runs.json", '{"treatment": {"results": [3]}}', "treatment.results is not a list of objects"),
        ("raw_runs.json", '{"treatment": {"config": 3, "results": []}}', "treatment.config is not an object"),
        ("interventions.json", '{"submissions": [{}]}', "submissions[0] has no submission_id"),
        ("causal_dag.json", "[" * 100_000, "is not JSON"),
        ("experiment_log.json", '{"experiments": {}}', "experiments is not a list of objects"),
        ("other.json", '{"a": 1}', "is none of interventions.json"),
    ],
)
def test_a_malformed_file_is_one_line_and_the_others_are_read(tmp_path, imported, name, text, reason):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / name).write_text(text)
    if name == "other.json":
        _, failed = imported("first-pipeline", tmp_path / "f" / name)
    else:
        write(tmp_path / "f", "pipeline_log.json", {"results": [{"label": "x", "cycle": 1}]})
        counts, failed = imported("first-pipeline", tmp_path / "f")
        assert counts["claims"] == 1
    assert len(failed) == 1
    assert failed[0][0] == name
    assert reason in failed[0][1]
    assert "\n" not in failed[0][1]


def test_a_token_in_a_run_is_refused_and_the_other_runs_come_in(tmp_path, imported):
    runs = raw_runs()
    runs["treatment"]["results"][0]["error"] = "x"
    runs["control"]["config"] = {**BASE, "env_overrides": {"HF": "hf_" + "a1B2" * 9}}
    counts, failed = imported("first-pipeline", write(tmp_path, "raw_runs.json", runs))
    assert counts["runs"] == 2
    assert failed
    assert not any("a1B2" in reason for _, reason in failed)


def test_a_folder_without_its_files_is_refused(tmp_path, imported):
    with pytest.raises(UsageError, match="holds none of"):
        imported("first-pipeline", tmp_path)
