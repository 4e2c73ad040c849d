"""The cluster through kubectl or through the Kubernetes client for Python."""
