"""Networks of the VAE presets and their blocks."""
