"""HookedVLM: any Hugging Face vision-language model, hosted and hooked."""
