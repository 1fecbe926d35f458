"""Everything that makes the demo: rendered scenes, the CDN that serves them, the script that trains the demo model."""
