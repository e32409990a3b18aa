"""The DAO core: Crysformer, noise processes, DAO-G, DAO-P, sampling, relaxation, training, checkpoints.

This floor needs torch, numpy and safetensors alone, and knows of no workflow, database or structure library.
"""

from .runtime.matmul import round_alike

round_alike()
