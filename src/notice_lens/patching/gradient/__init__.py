"""Attribution patching: gradients, and what a patch does to first order."""
