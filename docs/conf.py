"""Sphinx configuration."""

import json
import sys
from importlib.metadata import version as _version
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "_sphinx"))

project = "safe_embed"
author = "The safe_embed authors"
project_copyright = f"2026, {author}"
release = _version("safe-embed")
version = release.rpartition(".")[0]

extensions = [
    "languages",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
# _figures: tables that benchmarks.md includes
exclude_patterns = ["_build", "_figures", "_reports"]
html_theme = "furo"
html_title = f"safe_embed {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
templates_path = ["_templates"]
# No page is copied beside its HTML.
html_copy_source = False
html_show_sphinx = False
# Its words are cut as Japanese; what is not Japanese it leaves whole.
html_search_language = "ja"

myst_enable_extensions = ["colon_fence", "deflist", "substitution"]
# Figures of the published run; beside the manual, since the wheel needs them too.
_quoted = Path(__file__).parent / "ja" / "figures.json"
myst_substitutions = json.loads(_quoted.read_text(encoding="utf-8"))
myst_heading_anchors = 3  # [text](page.md#heading) is checked

# Types stand in the signatures alone, and so do the parameters of a constructor.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# One parameter a line where a signature is longer than a line of the page.
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
# What stands before a colon in `Returns:` is prose, not a type.
napoleon_use_rtype = False

# `>>>` in {doctest} blocks runs with the packaged model: `sphinx-build -b doctest`.
doctest_test_doctest_blocks = ""

nitpicky = True
# The pages must build where no network is, so nothing outside this project can be resolved.
nitpick_ignore_regex = [
    # Types of other packages in our signatures.
    (r"py:.*", r"(numpy|np|torch|sentence_transformers)\..*|SentenceTransformer"),
    # Types of the standard library.
    (r"py:.*", r"(collections|os|pathlib|re|typing)\..*"),
    # Names for a choice of literals: the docstring lists the choices where the name is used.
    (r"py:class", r"Mode|OnLong|Pooling|PoolingFunction|Precision|SplitterLike|WhenFull|Bits"),
    # Whatever has a fingerprint: a SafeEncoder.
    (r"py:class", r"safe_embed\.search\.calibration\.HasFingerprint"),
    # Any function: what MemoryLog.wrap is given and returns.
    (r"py:class", r"safe_embed\.diagnosis\.watching\.Function"),
    # Constants inside a module, named in a docstring for those who read the source.
    (r"py:data", r"RELEASES|WINDOW_CHARS"),
]
