"""How often are Turnout's rules wrong, and how soon right? Simulated streams and public functions."""
