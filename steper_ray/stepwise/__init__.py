"""The teacher's chains, and the step-wise examples made of the kept ones."""
