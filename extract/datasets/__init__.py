"""How known datasets lie on disk, and the manifests made of them."""
