"""Where a suggestion ends, and how it is made to fit what stands around it. Pure; knows no engines."""
