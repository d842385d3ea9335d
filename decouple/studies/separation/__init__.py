"""The separation study: its experiment, its run folders, tables, figures, recommendation and report."""
