"""Pretraining: state, optimizer, objective, step, health, log, and the loop that joins them."""
