"""The files that users bring: questions, passages, documents."""
