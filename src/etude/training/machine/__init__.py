"""The machine that trains: its device, its processor, threads and precisions."""
