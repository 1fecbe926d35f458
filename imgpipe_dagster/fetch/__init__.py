"""Getting bytes from the network: one polite, bounded, guarded HTTP client. No dagster, no SQL.

Nothing is imported here: whoever asks for ``urls`` only, such as the command line, does without an HTTP client.
"""
