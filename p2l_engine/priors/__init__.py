"""What a solver takes for likely images: models, their files and where these come from."""
