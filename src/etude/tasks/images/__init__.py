"""Pictures from the Hugging Face hub or a local copy."""
