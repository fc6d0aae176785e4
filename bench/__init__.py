"""How fast is Turnout, and by which method was that measured? docs/performance.md has the answers."""
