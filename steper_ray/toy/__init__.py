"""An invented world with tiny models, so that the whole system runs anywhere."""
