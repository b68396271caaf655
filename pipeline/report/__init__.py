"""A run as a folder of files that a browser opens: pages, charts, and maps that it draws from their stored bytes."""
