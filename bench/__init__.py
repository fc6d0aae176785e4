"""How fast is Turnout, and how often right? What was measured, and by which method; docs has the answers."""
