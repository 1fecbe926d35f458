"""Machine-learning models (never ORM tables): arrays in, dataclasses out. No dagster, SQL, network or settings."""
