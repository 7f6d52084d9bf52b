"""Whole programs, written as different people would write them."""
