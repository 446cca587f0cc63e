"""What `import mmv_jax` gives to Python: an encoder that takes files, arrays and studies."""
