"""How a task is named, found again and recognised."""
