"""Pictures for a person: written as files, and set side by side."""
