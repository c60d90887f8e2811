"""BLIP as a TransformerBridge: its architecture adapter, the components of that, and one stack of it as a lens."""
