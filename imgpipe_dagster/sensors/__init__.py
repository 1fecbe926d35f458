"""Dagster sensors: thin shells around pure decisions."""
