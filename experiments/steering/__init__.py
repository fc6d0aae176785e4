"""Who gets which version, and what changes that? Whatever gives a candidate traffic, or takes it away.

`Junction` knows what is in force, `Publication` tells the workers. `Control` and `Promotion` move traffic
when a person says so (`admission` and `permission`: whether it may be), `Watch` when the evidence does
(`response`), `Protection` when nothing answers, `Enactment` when files do. `Journal`, `Settlement` and
`Reconciliation` bring to an end what was begun.
"""
