"""What every other part may use: the registry of what can be chosen by name."""
