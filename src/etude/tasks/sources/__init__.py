"""Every kind of data behind one interface."""
