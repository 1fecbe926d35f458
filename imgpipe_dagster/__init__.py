"""A Dagster project that takes images from a CDN catalogue to trusted results.

The package root holds what everything else shares: settings, reason codes and the one assembler of the Dagster
definitions. See ``docs/architecture.md`` for the layers.
"""

__version__ = "0.1.0"
