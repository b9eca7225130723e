"""What a step may search."""
