"""A package, so that its shared server ends with its tests and not with the session."""
