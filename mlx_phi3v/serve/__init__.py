"""A server on this machine: OpenAI's chat endpoint on either backend, and a page to drop a photo on."""
