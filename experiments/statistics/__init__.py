"""How far apart are two arms, how surely, and may one say so now? Pure functions of frozen sums.

No I/O, no clock, no state; numpy and scipy only. Candidate minus control throughout. Whatever cannot be
said from the data is a `Status` with a name, never an exception and never a made-up interval.
`import scipy` loads a part (`scipy.stats`, ...) when a formula first asks for it: together they take a second
and 60 MB, which a command need not wait for that works nothing out. The controller's looks must not wait for
it either: `experiments.steering.watch` has all of it loaded once there is something to judge.
Each module holds one noun; `tests/reference.py` runs them against cases from other people's software.
"""
