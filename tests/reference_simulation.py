"""How are the kinds about operating characteristics computed? By running the simulation in `bench`."""
