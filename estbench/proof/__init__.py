"""Proofs: is an estimator unbiased, does it behave, does it cost what it says?"""
