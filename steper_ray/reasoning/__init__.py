"""One reasoning loop for teacher, evaluation and server: prompts, steps, engines."""
