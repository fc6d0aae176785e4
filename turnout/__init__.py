"""`turnout`: the command, the processes on one machine, serving a version, the demo."""
