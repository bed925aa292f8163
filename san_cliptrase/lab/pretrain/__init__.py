"""Training of the small models that stand in for published ones: CLIP on scenes or photographs, DINO on scenes."""
