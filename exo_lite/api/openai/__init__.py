"""OpenAI's API: bodies to neutral requests, pieces to its documents and events, failures to its errors."""
