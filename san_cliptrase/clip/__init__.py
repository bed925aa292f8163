"""The frozen CLIP: the only room that imports open_clip."""
