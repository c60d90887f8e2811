"""HookedBLIP: BLIP's stacks, blocks, weights and answers."""
