"""User studies: a page on which people compare videos of two methods, and what their votes say."""
