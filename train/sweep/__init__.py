"""Many heads tried on one split: trials, their processes, and what a kill leaves of them."""
