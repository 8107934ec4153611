"""What is published: commands that print one JSON document last. Never tests: the machine is shared."""
