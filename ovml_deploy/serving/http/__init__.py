"""The HTTP API: requests to the service, and answers back."""
