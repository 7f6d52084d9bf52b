"""Schedules under the names, and with the arguments, of other libraries' functions.

`parity.torch.CosineAnnealingLR(0.1, T_max=50)` gives the values that torch's scheduler gives at
every step, as one expression that can be read, joined, multiplied and written. None of these
modules imports the other library. Values agree to 1e-12 of the peak, or to 1e-6 if the library
computes in float32. If a library has a defect, the schedule has the right values, and the docstring
describes the difference under "Deviation".

Rates are absolute: each function takes the rate that the library would read from its optimizer.
"""
