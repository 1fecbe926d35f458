"""Getting bytes from the network: one polite, bounded, guarded HTTP client. No dagster, no SQL."""
