"""The causal DAG: from records and own experiments to nodes, edges and their status. Pure; see revise.py."""
