"""How Alembic runs the migrations: on a connection that it is given, or as SQL text. No migration lives here."""

from alembic import context

from imgpipe_dagster.catalogue.tables import Base

config = context.config
connection = config.attributes.get("connection")

if connection is None:
    context.configure(
        dialect_name=config.attributes["dialect"], target_metadata=Base.metadata, literal_binds=True, as_sql=True
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
