"""Rankings from scores; metrics; significance. Nothing here trains."""
