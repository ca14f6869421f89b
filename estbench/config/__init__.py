"""What an experiment is: its settings, their checks, and the presets."""
