"""Rescales the updates of an optimizer, from the values that were saved before its step."""
