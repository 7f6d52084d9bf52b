"""What a trainer of another library is read into: a task and a recipe."""
