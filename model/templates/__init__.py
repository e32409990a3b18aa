"""Known crystals as templates: libraries of them, and which of them fit a composition."""
