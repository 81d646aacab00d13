"""Measures of fidelity and of temporal stability."""
