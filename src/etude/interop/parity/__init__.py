"""The peers' own functions, by their own names and with their own arguments, as schedules.

`parity.torch.CosineAnnealingLR(0.1, T_max=50)` gives the values that torch's scheduler gives at
every step, as one expression that can be read, joined, multiplied and written down. None of these
modules imports its peer. Values agree to 1e-12 of the peak, and to 1e-6 where the peer computes in
float32; where a peer is wrong, the docstring says so under "Deviation" and does what is right.

Rates are absolute: each function takes the rate that the peer would read from its optimizer.
"""
