"""One file per command: its options, what it calls, what it prints. Heavy imports happen inside the command."""
