"""The empty Streamlit page that the dashboard's pages are compared with: a title, and a switch that changes nothing."""

import streamlit as st

st.set_page_config(page_title="empty", layout="wide")
st.title("Empty")
st.toggle("Again")
