"""What a discovery program sees: stacks as rows, techniques as columns of 0 and 1, and the outcome's level.

One noise class, the one with most stacks. These are levels, not differences, which is why such a program
may only propose.
"""

from __future__ import annotations

from projections.dag import contrasts
from projections.engine import Tables


def stacks(tables: Tables, outcome: str) -> tuple[tuple[str, ...], list[list[float]]]:
    """(names of the columns, the outcome last; the rows), both in order of their names."""
    data = contrasts.read(tables, outcome)
    values: dict[str, float] = {}
    for row in tables.rows(
        """SELECT record, val_bpb FROM records
        WHERE val_bpb IS NOT NULL AND NOT starts_with(parser, 'import/') ORDER BY record"""
    ):
        values[row["record"]] = row["val_bpb"]
    places: dict[str, list[str]] = {}
    for stack in sorted(values):
        if stack in data.stacks:
            places.setdefault(data.stacks[stack][0], []).append(stack)
    if not places:
        return (outcome,), []
    place = min(places, key=lambda one: (-len(places[one]), one))
    mine = places[place]
    names = sorted({name for stack in mine for name in data.stacks[stack][1]})
    rows = [[*(float(name in data.stacks[stack][1]) for name in names), values[stack]] for stack in mine]
    return (*names, outcome), rows
