"""DMCNN: a dynamic multi-scale network; known from a description alone."""
