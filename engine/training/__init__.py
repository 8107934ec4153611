"""Makes the pair that ships: corpus, tokenizer, prompts as the daemon writes them, target and draft."""
