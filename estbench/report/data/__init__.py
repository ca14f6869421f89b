"""Replicates, comparisons and tests: what a result set says, without a word or a colour."""
