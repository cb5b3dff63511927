"""The hub: download by id, upload with a model card. `huggingface_hub` speaks to it, and only this folder to that."""
