"""The trained PP-OCRv4 text recogniser, compiled and scored on rendered lines."""
