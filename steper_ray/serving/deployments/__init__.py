"""The Ray Serve deployments: ingress, retriever and LLM."""
