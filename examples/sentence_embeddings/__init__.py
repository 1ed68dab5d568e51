"""The trained all-MiniLM-L6-v2 sentence encoder, compiled from torch."""
