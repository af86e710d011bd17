"""What a head is: conditioning, an encoder over time, pooling."""
