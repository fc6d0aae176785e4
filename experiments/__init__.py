"""What is being tried, and what follows from it."""
