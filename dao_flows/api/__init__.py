"""What a user asks for, from Python: predict, verify, compare, pretrain, build datasets and libraries."""
