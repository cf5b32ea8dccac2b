"""Callbacks that hold a sparse network inside other people's trainers; each file needs its own package."""
