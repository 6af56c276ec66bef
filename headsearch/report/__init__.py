"""What a person sees: console, pictures."""
