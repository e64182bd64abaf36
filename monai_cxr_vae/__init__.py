"""A variational autoencoder for chest radiographs, as a MONAI plugin."""
