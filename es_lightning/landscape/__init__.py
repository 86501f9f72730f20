"""What a curve of rewards tells about the landscape: models in closed form, and tests that read them."""
