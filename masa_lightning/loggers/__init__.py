"""What Lightning's loggers have no common way to take: pictures and tables."""
