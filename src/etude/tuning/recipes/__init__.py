"""The choice of a whole recipe: optimizer, schedule, batch size and the rest."""
