"""What events reach: the runs, experiments, noise classes and so on whose rows the engine makes again.

Each scope of the tables (see catalog.py) has a temporary table with the values that are dirty. They are filled before
the tables change, from what was, and while they change, from what is: a run that moves from one place to another
touches both. To mark too much costs time; to mark too little would be wrong, and a property test says that it is not.
"""

from __future__ import annotations

import duckdb

from projections import board, lineage_board, staging

SCOPES = ("run", "experiment", "record", "noise_class", "track", "base", "proxy, target", "part")
_OF_LINEAGE = ("record_extracted", "leaderboard_extracted", "dag_revised")  # what a ranking takes from the records


def clean(connection: duckdb.DuckDBPyConnection) -> None:
    """Nothing is dirty yet."""
    for scope in SCOPES:
        columns = ", ".join(f"{column} VARCHAR" for column in scope.split(", "))
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {dirty(scope)} ({columns})")


def dirty(scope: str) -> str:
    """The temporary table with the values of a scope whose rows are made again."""
    return "dirty_" + scope.replace(", ", "_")


def mark_dirty(connection: duckdb.DuckDBPyConnection, first: int) -> set[str]:
    """Mark what the events from `first` on touch, by themselves or by a retraction; the facts that they are."""
    touched = f"position >= {first}"
    if connection.execute(f"SELECT 1 FROM staged.event_retracted WHERE {touched} LIMIT 1").fetchall():
        touched = f"({touched} OR event_id IN (SELECT target FROM staged.event_retracted WHERE {touched}))"
    for name in ("run_started", "run_finished"):
        connection.execute(f"INSERT INTO dirty_run SELECT DISTINCT run FROM staged.{name} WHERE {touched}")
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE dirty_plan AS
        SELECT experiment FROM staged.experiment_registered WHERE {touched}
        UNION SELECT experiment FROM staged.screen_planned WHERE {touched}"""
    )
    connection.execute("INSERT INTO dirty_experiment SELECT experiment FROM dirty_plan")
    # A registration changes what its runs are; a run changes what its experiment shows.
    connection.execute(
        """INSERT INTO dirty_run SELECT DISTINCT run FROM staged.run_started
        WHERE experiment IN (SELECT experiment FROM dirty_experiment)"""
    )
    connection.execute(
        """INSERT INTO dirty_experiment SELECT DISTINCT experiment FROM staged.run_started
        WHERE experiment IS NOT NULL AND run IN (SELECT run FROM dirty_run)"""
    )
    # What runs and controls were shared with, before the tables change and (in reach) after.
    connection.execute("CREATE OR REPLACE TEMP TABLE changed_class (noise_class VARCHAR)")
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE dirty_bank AS
        SELECT base, control_key, metric, noise_class FROM main.experiments LIMIT 0"""
    )
    mark_classes(connection)
    mark_banks(connection)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE steps_before AS {STEPS}")
    # Where what can be measured next may be worth something else; the bases of experiments come later (mark_parts).
    connection.execute(
        f"""INSERT INTO dirty_base
        SELECT DISTINCT base FROM staged.run_started WHERE run IN (SELECT run FROM dirty_run)
        UNION SELECT base FROM staged.cycle_planned WHERE {touched}
            OR cycle IN (SELECT cycle FROM staged.cycle_ranked WHERE {touched})
        UNION SELECT base FROM staged.experiment_registered
            WHERE experiment IN (SELECT experiment FROM staged.decision_made WHERE {touched})"""
    )
    types = connection.execute(f"SELECT DISTINCT type FROM staged.event WHERE {touched}").fetchall()
    kinds = {staging.table_name(kind) for (kind,) in types} | {"event", "point", "retraction"}
    # Records share their noise and their pull requests: a reading of one changes what the others show.
    if "record_extracted" in kinds or "leaderboard_extracted" in kinds:
        connection.execute(
            """INSERT INTO dirty_record SELECT '' UNION
                SELECT record FROM staged.record_extracted UNION SELECT record FROM main.claim_audit"""
        )
    if not kinds.isdisjoint(_OF_LINEAGE):
        connection.execute("INSERT INTO dirty_part VALUES ($1)", [lineage_board.PART])
    return kinds


# Of each noise class up to which outcome its runs count, and whether one of the runs in question does.
STEPS = """SELECT steps.noise_class, steps.last, bool_or(runs.finished_position <= steps.last) AS counts
    FROM main.noise_steps AS steps
    LEFT JOIN main.runs ON runs.noise_class = steps.noise_class AND runs.run IN (SELECT run FROM dirty_run)
    GROUP BY ALL"""


def mark_classes(connection: duckdb.DuckDBPyConnection) -> None:
    """Noise classes that the runs and the plans in question are in."""
    connection.execute(
        """INSERT INTO dirty_noise_class
        SELECT DISTINCT noise_class FROM main.runs WHERE run IN (SELECT run FROM dirty_run)
        UNION SELECT noise_class FROM main.experiments WHERE experiment IN (SELECT experiment FROM dirty_plan)"""
    )


def mark_banks(connection: duckdb.DuckDBPyConnection) -> None:
    """Controls that experiments share, of those experiments whose plan or control runs are in question."""
    connection.execute(
        """INSERT INTO dirty_bank
        SELECT DISTINCT base, control_key, metric, noise_class
        FROM main.experiments AS plan
        WHERE experiment IN (SELECT experiment FROM dirty_experiment) AND (
            experiment IN (SELECT experiment FROM dirty_plan)
            OR experiment IN (
                SELECT started.experiment FROM staged.run_started AS started
                WHERE started.run IN (SELECT run FROM dirty_run) AND started.arm = plan.control
            )
        )"""
    )


def reach(connection: duckdb.DuckDBPyConnection) -> None:
    """Further experiments whose judgement the events change: of a noise class that knows another noise than before,
    and of a base whose controls changed."""
    mark_banks(connection)
    connection.execute(
        """INSERT INTO dirty_experiment
        SELECT experiment FROM main.experiments
        WHERE (base, control_key, metric, noise_class) IN (FROM dirty_bank)
            OR noise_class IN (FROM changed_class)"""
    )


def mark_parts(connection: duckdb.DuckDBPyConnection) -> None:
    """The parts of the ranking that the events change."""
    connection.execute(
        """INSERT INTO dirty_base
        SELECT DISTINCT base FROM staged.experiment_registered
        WHERE experiment IN (SELECT experiment FROM dirty_experiment)
        UNION SELECT base FROM staged.cycle_planned
        WHERE concat_ws(', ', noise_class.platform, noise_class.scale, noise_class.metric, noise_class.stage)
            IN (FROM changed_class)"""
    )
    # What the records say is the prior of candidates whose technique they know, and what arms set are their columns.
    if some(connection, "part", False):
        connection.execute("INSERT INTO dirty_base SELECT base FROM staged.cycle_planned")
    plans = bool(connection.execute("SELECT 1 FROM dirty_plan LIMIT 1").fetchall())
    if plans:
        connection.execute("INSERT INTO dirty_part VALUES ($1)", [lineage_board.PART])
    pairs = (
        "SELECT 1 FROM main.transfer WHERE proxy IN (FROM dirty_noise_class) OR target IN (FROM dirty_noise_class)"
    )
    if plans or some(connection, "proxy_target", False) or connection.execute(f"{pairs} LIMIT 1").fetchall():
        connection.execute("INSERT INTO dirty_part VALUES ($1)", [board.TRANSFER])
    connection.execute("INSERT INTO dirty_part SELECT DISTINCT $1 || base FROM dirty_base", [board.part_of("")])


def some(connection: duckdb.DuckDBPyConnection, scope: str, all_rows: bool) -> bool:
    return all_rows or bool(connection.execute(f"SELECT 1 FROM dirty_{scope} LIMIT 1").fetchall())
