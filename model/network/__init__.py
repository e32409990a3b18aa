"""Crysformer, the network that DAO-G and DAO-P share."""
