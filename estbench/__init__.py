"""estbench: prove, measure and compare gradient estimators for discrete sequence models."""

__version__ = "0.1.0"
