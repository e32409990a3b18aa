"""The materials science of the stages, as functions of structures and compositions."""
