"""The separation study: its runs read back, tables, figures, a recommendation, a page."""
