"""The Python interface of `import mmv_jax`: an encoder that takes files, arrays and studies."""
