"""What does the control plane answer over HTTP? `app.create_app` makes the application, a module per noun."""

from .app import create_app

__all__ = ["create_app"]
