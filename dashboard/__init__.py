"""What do people look at when they decide about a version?

A Streamlit application over the control API and nothing else: no database, no registry, no other package.
"""
