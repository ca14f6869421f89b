"""Writers: HTML, LaTeX, the terminal, Markdown, CSV."""
