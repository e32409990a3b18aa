"""What a screen decides: which candidates pass, what a judge says of them, which comes first."""
