"""LoRA adapters (Hu et al. 2021) in PEFT's layout, applied to the target as it runs."""
