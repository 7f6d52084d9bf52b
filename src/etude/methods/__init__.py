"""The textbook's ways to choose a learning rate: a grid, range tests, and a comparison of ways."""
