"""What becomes of suggestions: watched, counted, printed. Holds nothing of the text."""
