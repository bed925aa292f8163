"""What every patch of an image attends to and correlates with, and a page to look at it."""
