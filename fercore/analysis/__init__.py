"""What records say: DataFrames in, DataFrames out. It draws nothing and prints nothing."""
