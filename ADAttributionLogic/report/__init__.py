"""What is shown of a result: figures, overlays, tables and their colours."""
