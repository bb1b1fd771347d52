"""Labels of rows: which are probably wrong, how far annotators agree, and names that mean the same."""
