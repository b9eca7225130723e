"""What a build will take, predicted from a small sample."""
