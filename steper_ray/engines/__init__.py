"""What writes a step: vLLM in this process, or an OpenAI-compatible endpoint."""
