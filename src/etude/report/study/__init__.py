"""Figures, tables and sentences of the report on a study."""
