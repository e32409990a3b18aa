"""Where results live, and the collections that are laid out from them."""
