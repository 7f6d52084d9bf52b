"""What a watch is made of: its hooks in a loop, its samples, and the history it keeps."""
