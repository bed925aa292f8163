"""Where regions come from: one protocol, and every source of it. Knows no text, no configuration, no detectron2."""
