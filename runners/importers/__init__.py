"""Reading what other tools left behind into runs, claims and readings.

An importer reads files and returns items; `bringing` appends them. Nothing imported may look registered beforehand:
a run has no experiment, its seed is a tuning seed, and figures that another tool derived are claims (probes).
"""
