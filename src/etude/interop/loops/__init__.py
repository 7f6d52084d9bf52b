"""How the loops of other libraries are driven by the search; each library's module imports here."""
