"""What is done to frozen networks that are differentiated through: what they keep, and in what precision."""
