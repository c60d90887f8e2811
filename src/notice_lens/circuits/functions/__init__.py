"""Head functions: attention maps, their scores, and knock-outs that confirm a label."""
