"""How good is an answer?

Golden sets, the scorers that judge the answers to their items, the runner that puts the questions to a
named version through the proxy, and the paired comparison of two versions. Knows the proxy and the control
API as HTTP services only; keeps no state of its own.
"""
