"""Reward models under two objectives and both, and the neurons that they rest on."""
