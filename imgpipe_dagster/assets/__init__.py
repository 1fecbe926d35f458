"""Dagster assets, one module per stage, with the checks beside the asset they guard. No business logic."""
