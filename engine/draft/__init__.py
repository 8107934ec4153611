"""Drafters: cheap guesses at what the target will say, grown into one token tree."""
