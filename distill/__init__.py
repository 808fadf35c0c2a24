"""Training of the models that `tools.convert` makes model files of."""
