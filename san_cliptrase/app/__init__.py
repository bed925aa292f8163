"""``san-cliptrase app``: a page in the browser to try the models on, drawn by gradio."""
