"""Where images are born: another SQL table, a Kafka topic, a folder. Each becomes rows through the one door for rows.

No dagster, no settings.
"""
