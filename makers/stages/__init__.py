"""What each stage declares of itself, beside its maker: one module a family of stages, and the list of all."""
