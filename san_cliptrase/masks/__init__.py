"""Other sources of the masks that CLIPtrase classifies: a self-supervised ViT, SAM. Knows no text and no detectron2."""
