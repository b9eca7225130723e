"""Step-wise knowledge distillation of multi-step retrieval reasoning, on Ray (StepER, EMNLP 2025)."""

__version__ = "0.1.0"
