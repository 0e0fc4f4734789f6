"""What scripts/reliability does: see scenarios.py for the list, promises.py for what is held against each capture."""
