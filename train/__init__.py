"""From cached features to a calibrated head with measured errors."""
