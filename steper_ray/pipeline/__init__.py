"""The stages that `steper` runs, one by one or as a pipeline."""
