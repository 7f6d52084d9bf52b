"""Options that several verbs share, and how they are parsed."""
