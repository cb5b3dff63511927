"""How a file becomes rows: bytes, encodings, CSV dialects, JSON, sheets, XML and archives."""
