"""The causal wave: the exact engine for decoder vision-language models. Start with `wave.py`."""
