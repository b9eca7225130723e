"""Jobs on a Ray cluster: submitting them with what they need, and following them and runs by hand."""
