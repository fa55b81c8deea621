"""The page that `randar explore` shows: what is explored, the pictures of it, and the page itself."""
