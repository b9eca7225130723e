"""The student behind Ray Serve."""
