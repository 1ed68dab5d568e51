"""Long texts through a sentence encoder whose tokens see their neighbours alone."""
