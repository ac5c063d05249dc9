"""stjax: spatial gene expression from H&E histology, in JAX."""
