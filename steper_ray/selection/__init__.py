"""Which chains are kept, and the step-wise examples made of them."""
