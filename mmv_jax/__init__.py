"""mmv_jax: one vision encoder for 2D and 3D medical studies, and an honest measure of what it is
worth.
"""
