"""The watch of Etude's own runs: an observer, and what the record keeps of it."""
