"""A catalogue -> figures, terminal report and page."""
