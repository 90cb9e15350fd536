"""HTTP: answers in the API dialects that clients speak, state and events, the status page."""
