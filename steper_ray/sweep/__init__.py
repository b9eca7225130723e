"""Sweeps over settings of the training, on Ray Tune."""
