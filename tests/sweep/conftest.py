"""The tiny student and the examples that trainings use."""

from tests.training.conftest import device, one_thread, tiny_student, write_stepwise

__all__ = ["device", "one_thread", "tiny_student", "write_stepwise"]
