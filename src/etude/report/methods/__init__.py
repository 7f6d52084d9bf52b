"""Figures of range tests and grids."""
