"""The data path: what happens to a request between the client and the engine, and back."""
