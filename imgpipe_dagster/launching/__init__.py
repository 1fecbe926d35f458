"""How Dagster's daemon starts the processes of runs. What they do is not known here."""
