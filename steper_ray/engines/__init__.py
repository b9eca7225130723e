"""Engines, which write the steps: vLLM in this process, or an OpenAI-compatible endpoint."""
