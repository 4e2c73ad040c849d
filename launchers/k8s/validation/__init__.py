"""Check objects against the fields and rules of Kubernetes' API, before a server is asked."""
