"""Rounds in which DAO-G and DAO-P make each other better: what one proposes, a teacher labels and the other judges."""
