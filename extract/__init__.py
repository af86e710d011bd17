"""From videos to cached features: decode, find faces, crop, run the frozen backbone once."""
