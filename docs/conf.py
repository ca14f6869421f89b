"""The site: `make docs` builds it, offline, with warnings as errors."""

from importlib.metadata import version as version_of

project = "estbench"
author = "estbench contributors"
copyright = author
release = version = version_of("estbench")

extensions = [
    "myst_nb",  # myst_parser, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
nb_execution_mode = (
    "off"  # the tests run them; the site shows the outputs that they were saved with
)
root_doc = "index"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "estbench"
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": True,
}
