"""A comparison as a terminal report and as a page."""
