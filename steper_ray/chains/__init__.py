"""The teacher's reasoning chains: making, storing and reading them."""
