"""Settings of Sphinx: `sphinx-build -W -b html docs OUT`, in an environment with the extra `dev`."""

from monai_cxr_vae import __version__

project = "monai_cxr_vae"
author = "The monai_cxr_vae developers"
copyright = f"{author}; Apache License 2.0"  # noqa: A001, Sphinx's own name
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project

autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
napoleon_use_ivar = True
