"""Charts drawn by a library; each module imports its own when it draws."""
