"""What is done with temples: pictures in, models made, registered, used. Joins catalogue, store and models; no Dagster.

Commands, assets, API and dashboard call these; each module is one part of a model's life.
"""
