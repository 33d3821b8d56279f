"""The pages that people read, and in docs/generate what makes the site from them."""
