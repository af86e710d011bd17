"""From an exported model and a file to a verdict; never imports torch."""
