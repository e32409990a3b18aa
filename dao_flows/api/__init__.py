"""What a user asks for, from Python: predict, verify, compare, pretrain, improve, build datasets and libraries."""
