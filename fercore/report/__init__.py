"""What is looked at: the style of tables and figures, and the pages that are made of them."""
