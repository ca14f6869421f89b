"""Tables, figures and sentences: pure functions of `estbench.report.data`."""
