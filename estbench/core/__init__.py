"""What every other part may use: names, errors, noise, streams, processes and the terminal."""
