"""The catalogue: the SQL database of record. Tables, claims, imports and queries. No dagster, no image bytes."""
