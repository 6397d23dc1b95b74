"""A study: profiles, the plan of its runs, their records, and the machines that make them."""
