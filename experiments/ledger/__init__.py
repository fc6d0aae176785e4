"""What happened: every exchange, from the proxy's spool to the DuckDB database that the controller owns."""
