"""What a run is, and what its results depend on."""
