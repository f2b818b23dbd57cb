"""``viscot infer`` as functions: find the images, ask, keep the records, draw the answers."""
