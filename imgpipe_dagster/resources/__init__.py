"""Dagster resources: typed configuration that builds the plain objects of the lower layers. No logic."""
