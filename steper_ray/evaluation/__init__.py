"""Scores of models on held-out questions, and the comparison of ways of learning."""
