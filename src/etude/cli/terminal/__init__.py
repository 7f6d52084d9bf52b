"""What is shown in a terminal: reports, plots, what to do next."""
