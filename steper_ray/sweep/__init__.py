"""Sweeps of settings of the training with Ray Tune."""
