"""Pure image functions: bytes and numpy arrays in, arrays and dataclasses out. No dagster, SQL, network or settings."""
