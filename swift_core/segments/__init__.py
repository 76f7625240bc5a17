"""Conditional Segment-wise Generation."""
