"""This process and its Ray: session, placement, logs, progress."""
