"""Paired statistics: arrays in, numbers out."""
