"""The tiny student and the examples that trainings use."""

from tests.training.conftest import one_thread, tiny_student, write_stepwise

__all__ = ["one_thread", "tiny_student", "write_stepwise"]
