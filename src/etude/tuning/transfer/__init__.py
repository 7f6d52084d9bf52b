"""A tuned rate carried to another batch size, width, depth or length."""
