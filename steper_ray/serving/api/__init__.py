"""The HTTP API: routes, bodies, events."""
