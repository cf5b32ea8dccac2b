"""Procedural indoor rooms: what the synthetic data sets show. Original work; no meshes, no outside assets."""
