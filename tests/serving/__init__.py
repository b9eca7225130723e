"""A package, so that what its tests share ends with them: pytest keeps a `package` fixture no longer."""
