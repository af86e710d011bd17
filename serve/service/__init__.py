"""The HTTP service: jobs that survive a restart, and a page to drop videos on."""
