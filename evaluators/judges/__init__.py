"""How is a model asked for its opinion of an answer, and how far is that opinion to be trusted?

The evaluators `judge` and `pairwise` (in `evaluators.scorers`) ask through these modules. A judge is an
instrument: what it does not say clearly is missing, its errors are counted, and it gates only as far as
people's labels bear it out.
"""
