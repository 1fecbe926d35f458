"""The dashboard: a Streamlit app, one small file a page. Pages ask ``catalogue/`` and show: no SQL, no Dagster."""
