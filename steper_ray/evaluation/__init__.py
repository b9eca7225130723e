"""How well models answer: official metrics, evaluation through the loop, the report."""
